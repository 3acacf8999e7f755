"""Q-Guided Flow: the critic's gradient at the one-step estimate, its Jacobian replaced by I."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import critic_gradient, one_step_estimate


@dataclass(frozen=True)
class QGF(Estimator):
    """G = ∇Q(s, â₁), â₁ = clip(a_t + (1 − t)v(s, a_t, t)).

    Differentiated with respect to â₁ itself: clip and v are constants, so a saturated coordinate
    keeps its gradient. Not a gradient field of a_t. Products: 1 critic forward, 1 critic vjp.
    Source: method.md, section 3; official.md, section 5.
    """

    name = "qgf"
    summary = "∇Q(s, â₁)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁."""
        return critic_gradient(flow, step.obs, one_step_estimate(flow, step).x)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient."""
        return CRITIC_GRADIENT
