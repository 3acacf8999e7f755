"""Guidance at the noisy action itself (QFQL in the official code)."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import critic_gradient, critic_value


@dataclass(frozen=True)
class OOD(Estimator):
    """G = ∇Q(s, a_t), a_t not clipped: the critic is asked far from its data.

    Products: 1 critic forward, 1 critic vjp. A gradient field, of Φ(a_t) = Q(s, a_t).
    Source: method.md, section 3; official.md, section 5 ("noisy").
    """

    name = "ood"
    summary = "∇Q(s, a_t)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at a_t."""
        return critic_gradient(flow, step.obs, step.action)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient."""
        return CRITIC_GRADIENT

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array:
        """Q(s, a_t)."""
        return critic_value(flow, step.obs, step.action)
