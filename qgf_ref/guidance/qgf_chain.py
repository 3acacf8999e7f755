"""QGF with the exact remaining chain in place of the one-step estimate."""

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
from qgf_ref.guidance.queries import critic_gradient, ode_endpoint


@dataclass(frozen=True)
class QGFChain(Estimator):
    """G = ∇Q(s, ODE(a_t)): the endpoint of `bptt` with its Jacobian replaced by I.

    Products at step k: T − k − 1 field forwards, 1 critic forward, 1 critic vjp.
    Not a gradient field. Source: method.md, section 3.
    """

    name = "qgf_chain"
    summary = "∇Q(s, ODE(a_t))"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at the endpoint."""
        return critic_gradient(flow, step.obs, ode_endpoint(flow, step)[0].x)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient, and the rollout's forwards."""
        return CRITIC_GRADIENT + Products(field_forward=flow.denoise_steps - index - 1)
