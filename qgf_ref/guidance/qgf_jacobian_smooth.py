"""QGF-Jacobian with its Jacobian averaged over a neighbourhood of a_t."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qgf_ref.arrays import Array
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
from qgf_ref.ops.structure import axpy, scaled, zeros


def shared_noise(like: Array, seed: tuple[int, ...]) -> Array:
    """ξ ~ N(0, I) of shape (1, D), a function of the seed alone: the same for every row."""
    draw = np.random.default_rng(seed).standard_normal((1, like.shape[1]))
    return draw.astype(like.real.dtype)


@dataclass(frozen=True)
class QGFJacobianSmooth(Estimator):
    """G = mean over K draws ξ of J(a_t + σξ)ᵀ∇Q(s, â₁), J = ∂â₁/∂a_t with its clip's mask.

    ξ ~ N(0, I) is drawn from (seed, k, draw) and shared by all rows, so that a row's gradient does
    not depend on the batch around it. Products: 1 critic forward, 1 critic vjp, K field forwards,
    K field vjps. Source: method.md, section 3 [choice].
    Raises InputError unless K ≥ 1 and σ ≥ 0.
    """

    name = "qgf_jacobian_smooth"
    summary = "mean_ξ J(a_t + σξ)ᵀ∇Q(s, â₁)"

    draws: int = 4
    sigma: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.sigma < 0:
            raise InputError(f"draws must be ≥ 1 and sigma ≥ 0, got {self.draws}, {self.sigma}")

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, pulled back through the mean Jacobian."""
        at_query = critic_gradient(flow, step.obs, one_step_estimate(flow, step).x)
        total = flow.kernels(zeros, step.action)
        for draw in range(self.draws):
            xi = flow.kernels(shared_noise, step.action, (self.seed, step.index, draw))
            action = flow.kernels(axpy, self.sigma, xi, step.action)
            velocity, cache = flow.field.forward(step.obs, action, step.time)
            near = replace(step, action=action, velocity=velocity, velocity_cache=cache)
            masked = bounded_vjp(flow, at_query.gradient, one_step_estimate(flow, near))
            total = flow.kernels(axpy, 1.0, one_step_vjp(flow, masked, near), total)
        return replace(at_query, gradient=flow.kernels(scaled, 1 / self.draws, total))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient, K field forwards and K field vjps."""
        return CRITIC_GRADIENT + Products(field_forward=self.draws, field_vjp=self.draws)
