"""QGF-Covariance: the exact correction for a Gaussian conditional law and a quadratic critic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

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
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.row_numbers import at_least, divided, numbers, ratio, row_dot, where_positive
from qgf_ref.ops.structure import axpy, scaled, zeros


class _Solver(NamedTuple):
    """The conjugate gradients' state, every row its own: shift d, the solution so far; residual
    r = w∇Q − (C⁻¹ + wM)d; search p and dual s = C⁻¹p, all (B, D); energy ρ = rᵀCr (B, 1), 0 where
    the row has stopped.
    """

    shift: Array
    residual: Array
    search: Array
    dual: Array
    energy: Array

    @classmethod
    def begin(cls, run: Kernels, gradient: Array, weight: float | Array, spread: Array) -> _Solver:
        """d = 0 and r = w∇Q. spread: C·∇Q, from which C·r = w·C·∇Q."""
        residual, search = run(scaled, weight, gradient), run(scaled, weight, spread)
        # where ∇QᵀC∇Q is not positive the field's J is no covariance: the row gets no guidance
        energy = run(at_least, run(row_dot, residual, search), 0.0)
        return cls(run(zeros, search), residual, search, residual, energy)

    def advanced(self, run: Kernels, weight: float | Array, bent: Array) -> _Solver:
        """Go along p, and leave p as it was. bent: −M·p = ∇²Q·p (B, D).

        Where pᵀMp < 0, Q is convex along p: the step is then that of M = 0, the first order's, and
        the row stops there.
        """
        stiffness = run(row_dot, self.search, self.dual)
        convexity = run(scaled, weight, run(row_dot, self.search, bent))
        total = run(axpy, 1.0, run(at_least, run(scaled, -1.0, convexity), 0.0), stiffness)
        length = run(ratio, self.energy, total)
        image = run(axpy, weight, run(scaled, -1.0, bent), self.dual)
        residual = run(axpy, length, run(scaled, -1.0, image), self.residual)
        going = run(where_positive, self.energy, total)
        energy = run(axpy, -1.0, run(where_positive, going, convexity), going)
        shift = run(axpy, length, self.search, self.shift)
        return self._replace(shift=shift, residual=residual, energy=energy)

    def redirected(self, run: Kernels, spread: Array) -> _Solver:
        """The next direction, conjugate to those before. spread: C·r (B, D)."""
        fresh = run(row_dot, self.residual, spread)
        kept = run(ratio, fresh, self.energy)
        energy = run(at_least, run(where_positive, fresh, self.energy), 0.0)
        search = run(axpy, kept, self.search, spread)
        dual = run(axpy, kept, self.dual, self.residual)
        return self._replace(search=search, dual=dual, energy=energy)


@dataclass(frozen=True)
class QGFCovariance(Estimator):
    """G = (1/(1−t))·C(I + wMC)⁻¹∇Q(s, â₁), C = ((1−t)²/t)·½(J₀ + J₀ᵀ), M = −∇²Q(s, â₁).

    C is the covariance of a_1 given a_t. With a Gaussian conditional law and a quadratic Q this is
    the exact guidance at every w, where `qgf_jacobian_scheduled` is its first order in w. (An
    exact field's J₀ is symmetric; of a learned one the symmetric part is taken, so that the
    iteration below has a quantity to descend.)

    (C⁻¹ + wM)d = w∇Q, G = d/(w(1−t)), is solved by `iterations` steps of conjugate gradients with
    C as the preconditioner, in which C⁻¹ appears only in products that are known. Where M is
    indefinite: see `_Solver.advanced`. At w = 0 the limit. At t = 0, C is taken at the first
    positive time t₁ of the grid (the scheduled estimator divides by 1 − t₁ there as well). Linear
    in memory and in the number of products, whatever D.

    Products for n iterations: 1 critic forward, 1 critic vjp, n critic hvps, n field jvps and n
    field vjps; one field forward more at k = 0. Raises InputError unless iterations ≥ 1.
    Source: method.md, section 6.
    """

    iterations: int = 2

    name = "qgf_covariance"
    summary = "C(I + wMC)⁻¹∇Q(s, â₁)/(1−t), C = ((1−t)²/t)·sym J₀, M = −∇²Q"
    recordable = True
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
        state = _Solver.begin(run, at_query.gradient, weight, first)
        for n in range(self.iterations):
            if n:
                state = state.redirected(run, spread(state.residual))
            state = state.advanced(run, weight, curvature.product(state.search))
        # where w = 0, the limit
        number = numbers(weight, state.shift.dtype)
        per_weight = run(divided, state.shift, number, first)
        return replace(at_query, gradient=run(scaled, 1 / (1 - outer), per_weight))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """One critic gradient; hvp, field jvp and field vjp for each iteration."""
        n = self.iterations
        solve = Products(critic_hvp=n, field_jvp=n, field_vjp=n)
        return CRITIC_GRADIENT + solve + Products(field_forward=1 if index == 0 else 0)
