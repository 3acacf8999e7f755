"""QGF with the clip's mask and without the field's Jacobian: half of the clean 2×2 ablation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import bounded_vjp, critic_gradient, one_step_estimate


@dataclass(frozen=True)
class QGFMasked(Estimator):
    """G = M ∇Q(s, â₁), M the clip's derivative: 0 on the clipped coordinates.

    Products: 1 critic forward, 1 critic vjp. Source: method.md, section 3.
    """

    name = "qgf_masked"
    summary = "M ∇Q(s, â₁), M = clip′"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁ on the coordinates inside the bound."""
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        return replace(at_query, gradient=bounded_vjp(flow, at_query.gradient, query))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient."""
        return CRITIC_GRADIENT
