"""QGF-Jacobian with its Jacobian drawn towards the identity."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qgf_ref.errors import InputError
from qgf_ref.guidance.base import (
    CRITIC_GRADIENT,
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import bounded_vjp, critic_gradient, one_step_estimate, one_step_vjp
from qgf_ref.ops.structure import axpy, scaled


@dataclass(frozen=True)
class QGFJacobianRegularized(Estimator):
    """G = ((1 − λ)I + λJ)ᵀ∇Q(s, â₁), J = ∂â₁/∂a_t: λ = 0 is `qgf`, λ = 1 `qgf_jacobian`.

    Products: 1 critic forward, 1 critic vjp, 1 field vjp. Source: method.md, section 3 [choice].
    Raises InputError unless 0 ≤ λ ≤ 1.
    """

    name = "qgf_jacobian_regularized"
    summary = "((1−λ)I + λJ)ᵀ∇Q(s, â₁)"
    recordable = True

    lam: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise InputError(f"lam must lie in [0, 1], got {self.lam}")

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The blend of ∇Q at â₁ and its pull-back to a_t."""
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        pulled_back = one_step_vjp(flow, bounded_vjp(flow, at_query.gradient, query), step)
        kept = flow.kernels(scaled, 1 - self.lam, at_query.gradient)
        return replace(at_query, gradient=flow.kernels(axpy, self.lam, pulled_back, kept))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient and one field vjp."""
        return CRITIC_GRADIENT + Products(field_vjp=1)
