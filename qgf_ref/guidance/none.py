"""No guidance: the behaviour-cloning policy itself."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products
from qgf_ref.ops.structure import zeros


@dataclass(frozen=True)
class NoGuidance(Estimator):
    """G = 0. Products: none."""

    name = "none"
    summary = "0"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """Zeros (B, D)."""
        return Guidance(flow.kernels(zeros, step.action))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """None at all."""
        return Products()
