"""QGF at an endpoint that a distilled network predicts: without its Jacobian, and with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import Query, bounded, bounded_vjp, critic_gradient, critic_value


@dataclass(frozen=True)
class QGFDistill(Estimator):
    """G = ∇Q(s, clip f_η(s, a_t, t)): `qgf_chain` with its rollout replaced by one network.

    f_η predicts the endpoint of the flow from a_t (`losses.auxiliary.distill_loss`). Not a gradient
    field. Products: 1 forward of f_η, counted as a field's, 1 critic forward, 1 critic vjp.
    Source: method.md, section 3.
    """

    name = "qgf_distill"
    summary = "∇Q(s, f_η(s, a_t, t)), f_η distilled from ODE(a_t)"
    recordable = True
    auxiliary = "distill"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at the predicted endpoint."""
        return critic_gradient(flow, step.obs, _predicted(self, flow, step)[0].x)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and one forward of f_η."""
        return CRITIC_GRADIENT + Products(field_forward=1)


@dataclass(frozen=True)
class QGFJacobianDistill(Estimator):
    """G = (∂clip f_η/∂a_t)ᵀ∇Q(s, clip f_η(s, a_t, t)), by one vjp through the clip and f_η.

    A gradient field, of Φ(a_t) = Q(s, clip f_η(s, a_t, t)). Products: 1 forward and 1 vjp of f_η,
    counted as a field's, 1 critic forward, 1 critic vjp. Source: method.md, section 3.
    """

    name = "qgf_jacobian_distill"
    summary = "(∂f_η/∂a_t)ᵀ∇Q(s, f_η(s, a_t, t))"
    recordable = True
    auxiliary = "distill"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at the predicted endpoint, pulled back to a_t."""
        query, cache = _predicted(self, flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        masked = bounded_vjp(flow, at_query.gradient, query)
        network = self.network(flow.auxiliary.distill)
        return replace(at_query, gradient=network.vjp(masked, cache))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient, one forward and one vjp of f_η."""
        return CRITIC_GRADIENT + Products(field_forward=1, field_vjp=1)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array:
        """Q(s, clip f_η(s, a_t, t))."""
        return critic_value(flow, step.obs, _predicted(self, flow, step)[0].x)


def _predicted(estimator: Estimator, flow: GuidedFlow, step: DenoisingStep) -> tuple[Query, Any]:
    network = estimator.network(flow.auxiliary.distill)
    endpoint, cache = network.forward(step.obs, step.action, step.time)
    return bounded(flow, endpoint), cache
