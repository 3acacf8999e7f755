"""No guidance: the behaviour-cloning policy itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products


@dataclass(frozen=True)
class NoGuidance(Estimator):
    """G = 0. Products: none."""

    name = "none"
    summary = "0"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """Zeros (B, D)."""
        return Guidance(np.zeros_like(step.action))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """None at all."""
        return Products()
