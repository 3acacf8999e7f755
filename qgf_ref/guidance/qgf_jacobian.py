"""QGF with the Jacobian of the one-step estimate: with the clip's mask, and without."""

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
    bounded_vjp,
    critic_gradient,
    critic_value,
    one_step_estimate,
    one_step_vjp,
)


@dataclass(frozen=True)
class QGFJacobian(Estimator):
    """G = Jᵀ∇Q(s, â₁), J = ∂â₁/∂a_t = M(I + (1 − t)∂v/∂a_t), M the clip's mask.

    J is never formed: one vjp through the clip and v. (The official code forms it by D vjps.)
    A gradient field, of Φ(a_t) = Q(s, â₁(a_t)).
    Products: 1 critic forward, 1 critic vjp, 1 field vjp.
    Source: method.md, section 3; official.md, section 5.
    """

    name = "qgf_jacobian"
    summary = "Jᵀ∇Q(s, â₁), J = ∂â₁/∂a_t"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, pulled back to a_t."""
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        masked = bounded_vjp(flow, at_query.gradient, query)
        return replace(at_query, gradient=one_step_vjp(flow, masked, step))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and one field vjp."""
        return CRITIC_GRADIENT + Products(field_vjp=1)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array:
        """Q(s, â₁(a_t))."""
        return critic_value(flow, step.obs, one_step_estimate(flow, step).x)


@dataclass(frozen=True)
class QGFJacobianUnmasked(Estimator):
    """G = J₀ᵀ∇Q(s, â₁), J₀ = I + (1 − t)∂v/∂a_t: `qgf_jacobian` without the clip's mask.

    A gradient field only where nothing is clipped. Products: 1 critic forward, 1 critic vjp,
    1 field vjp. Source: method.md, section 3.
    """

    name = "qgf_jacobian_unmasked"
    summary = "J₀ᵀ∇Q(s, â₁), J₀ = I + (1−t)∂v/∂a_t"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, pulled back to a_t past the clip."""
        at_query = critic_gradient(flow, step.obs, one_step_estimate(flow, step).x)
        return replace(at_query, gradient=one_step_vjp(flow, at_query.gradient, step))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and one field vjp."""
        return CRITIC_GRADIENT + Products(field_vjp=1)
