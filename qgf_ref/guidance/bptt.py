"""Backpropagation through time: the gradient through every remaining Euler step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import (
    critic_gradient,
    critic_value,
    ode_endpoint,
    ode_endpoint_vjp,
)


@dataclass(frozen=True)
class BPTT(Estimator):
    """G = (∂ODE/∂a_t)ᵀ∇Q(s, ODE(a_t)), ODE the remaining Euler steps along v, then the clip.

    A gradient field, of Φ(a_t) = Q(s, ODE(a_t)). At step k, T − k steps remain: T − k − 1 field
    forwards (the first velocity is at hand), T − k field vjps, 1 critic forward, 1 critic vjp.
    Source: method.md, section 3. (The official file crashes: official.md, D2.)
    """

    name = "bptt"
    summary = "(∂ODE/∂a_t)ᵀ∇Q(s, ODE(a_t))"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at the endpoint, pulled back to a_t."""
        endpoint, cache = ode_endpoint(flow, step)
        at_end = critic_gradient(flow, step.obs, endpoint.x)
        return replace(at_end, gradient=ode_endpoint_vjp(flow, at_end.gradient, endpoint, cache))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient, and the rollout there and back."""
        remaining = flow.denoise_steps - index
        return CRITIC_GRADIENT + Products(field_forward=remaining - 1, field_vjp=remaining)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array:
        """Q(s, ODE(a_t))."""
        return critic_value(flow, step.obs, ode_endpoint(flow, step)[0].x)
