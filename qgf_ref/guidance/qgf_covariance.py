"""QGF-Covariance: the exact correction for a Gaussian conditional law and a quadratic critic."""

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
from qgf_ref.guidance.qgf_jacobian_scheduled import scheduled_step
from qgf_ref.guidance.queries import (
    critic_curvature,
    one_step_estimate,
    one_step_jvp,
    one_step_vjp,
)
from qgf_ref.ops.structure import axpy, scaled, zeros

Iterate = tuple[Array, Array, Array, Array, Array]
"""The conjugate gradients' state, every row its own: shift d, the solution so far; residual
r = w∇Q − (C⁻¹ + wM)d; search p and dual s = C⁻¹p, all (B, D); energy ρ = rᵀCr (B, 1), 0 where the
row has stopped."""


def begin(gradient: Array, weight: float | Array, spread: Array) -> Iterate:
    """d = 0 and r = w∇Q. spread: C·∇Q (B, D), from which C·r = w·C·∇Q."""
    residual = weight * gradient
    search = weight * spread
    energy = (residual * search).sum(axis=1, keepdims=True)
    # where ∇Qᵀ C ∇Q is not positive the field's J is no covariance: the row gets no guidance
    return np.zeros_like(search), residual, search, residual.copy(), np.maximum(energy, 0)


def advance(
    shift: Array,
    residual: Array,
    search: Array,
    dual: Array,
    energy: Array,
    weight: float | Array,
    bent: Array,
) -> Iterate:
    """Go along p, and leave p as it was for `redirect`. bent: −M·p = ∇²Q·p (B, D).

    Where pᵀMp < 0, Q is convex along p: the step is then that of M = 0, the first order's, and the
    row stops there.
    """
    stiffness = (search * dual).sum(axis=1, keepdims=True)
    bend = -weight * (search * bent).sum(axis=1, keepdims=True)
    convex = bend < 0
    total = np.where(convex, stiffness, stiffness + bend)
    going = (energy > 0) & (total > 0)
    length = np.where(going, energy, 0) / np.where(going, total, 1)
    after = residual - length * (dual - weight * bent)
    left = np.where(going & ~convex, energy, 0)
    return shift + length * search, after, search.copy(), dual.copy(), left


def redirect(
    shift: Array, residual: Array, search: Array, dual: Array, energy: Array, spread: Array
) -> Iterate:
    """The next direction, conjugate to those before. spread: C·r (B, D)."""
    fresh = (residual * spread).sum(axis=1, keepdims=True)
    going = (energy > 0) & (fresh > 0)
    ratio = np.where(going, fresh, 0) / np.where(going, energy, 1)
    left = np.where(going, fresh, 0)
    return shift.copy(), residual.copy(), spread + ratio * search, residual + ratio * dual, left


def per_weight(shift: Array, scale: float, weight: float | Array, first: Array) -> Array:
    """scale·d/w, and where w = 0 its limit scale·C∇Q. first: C∇Q (B, D)."""
    weight = np.asarray(weight, dtype=shift.dtype)
    zero = weight == 0
    return np.asarray(scale * np.where(zero, first, shift / np.where(zero, 1, weight)))


@dataclass(frozen=True)
class QGFCovariance(Estimator):
    """G = (1/(1−t))·C(I + wMC)⁻¹∇Q(s, â₁), C = ((1−t)²/t)·½(J₀ + J₀ᵀ), M = −∇²Q(s, â₁).

    C is the covariance of a_1 given a_t. With a Gaussian conditional law and a quadratic Q this is
    the exact guidance at every w, where `qgf_jacobian_scheduled` is its first order in w. (An
    exact field's J₀ is symmetric; of a learned one the symmetric part is taken, so that the
    iteration below has a quantity to descend.)

    (C⁻¹ + wM)d = w∇Q, G = d/(w(1−t)), is solved by `iterations` steps of conjugate gradients with
    C as the preconditioner, in which C⁻¹ appears only in products that are known. Where M is
    indefinite: see `advance`. At w = 0 the limit. At t = 0, C is taken at the first positive time
    t₁ of the grid (the scheduled estimator divides by 1 − t₁ there as well). Linear in memory and
    in the number of products, whatever D.

    Products for n iterations: 1 critic forward, 1 critic vjp, n critic hvps, n field jvps and n
    field vjps; one field forward more at k = 0. Raises InputError unless iterations ≥ 1.
    Source: method.md, section 6.
    """

    iterations: int = 2

    name = "qgf_covariance"
    summary = "C(I + wMC)⁻¹∇Q(s, â₁)/(1−t), C = ((1−t)²/t)·sym J₀, M = −∇²Q"
    analytic = False

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError(f"iterations must be an integer ≥ 1, got {self.iterations!r}")

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """∇Q at â₁, through the conditional covariance and the critic's curvature."""
        at_query, curvature = critic_curvature(flow, step.obs, one_step_estimate(flow, step).x)
        if step.time >= 1:  # a port's grid may hold it; a_1 is known: C = 0
            return replace(at_query, gradient=flow.kernels(zeros, step.action))
        outer, run, weight = step.time, flow.kernels, step.weight
        step = scheduled_step(flow, step)

        def spread(x: Array) -> Array:
            both = run(axpy, 1.0, one_step_jvp(flow, x, step), one_step_vjp(flow, x, step))
            return run(scaled, 0.5 * (1 - step.time) ** 2 / step.time, both)

        first = spread(at_query.gradient)
        state = run(begin, at_query.gradient, weight, first)
        for n in range(self.iterations):
            if n:
                state = run(redirect, *state, spread(state[1]))
            state = run(advance, *state, weight, curvature.product(state[2]))
        gradient = run(per_weight, state[0], 1 / (1 - outer), weight, first)
        return replace(at_query, gradient=gradient)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient; hvp, field jvp and field vjp for each iteration."""
        n = self.iterations
        solve = Products(critic_hvp=n, field_jvp=n, field_vjp=n)
        return CRITIC_GRADIENT + solve + Products(field_forward=1 if index == 0 else 0)
