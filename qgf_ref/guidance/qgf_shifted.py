"""QGF-Shifted: the tilt as a move of the point at which the flow's own denoiser is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import (
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    Products,
)
from qgf_ref.guidance.queries import (
    bounded,
    critic_gradient,
    one_step_estimate,
    one_step_unclipped,
)
from qgf_ref.nets.products import optional
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.row_numbers import at_least, nearest, numbers, plus, product, ratio, row_dot
from qgf_ref.ops.structure import axpy, cast, scaled, squeeze_last, zeros


def level(time: float | Array) -> Any:
    """λ(t) = (t/(1 − t))², the precision that x_t adds to a_1."""
    return np.square(time / (1 - time))


def usable_times(flow: GuidedFlow, index: int) -> tuple[float, ...]:
    """The times from t_index on at which D(x, t) depends on x and is not x: those of the grid but 0
    (and 1, which a port's grid may hold).

    With T = 1 there is none and t = 1/2 takes its place, as in `qgf_jacobian_scheduled`.
    """
    return tuple(t for t in flow.times[index:] if 0 < t < 1) or (0.5,)


def exact_time(wanted: Array) -> Array:
    """t with λ(t) = wanted, (B, 1)."""
    root = np.sqrt(wanted)
    return np.asarray(root / (1 + root))


class _Moved(NamedTuple):
    """D(x′, t′) (B, D); t′, 1 − t′ and (1 − t′)²/t′ (B, 1); and the field's cache at (x′, t′)."""

    mean: Array
    left: Array
    scale: Array
    cache: Any


@dataclass(frozen=True)
class QGFShifted(Estimator):
    """G = (D(x′, t′) − D(a_t, t))/(w(1 − t)), D(x, t) = x + (1 − t)v(s, x, t) = E[a_1 | x_t = x].

    Given x_t = x, a_1 has the density π̂(a)·exp(−½λ‖a‖² + ⟨a, λx/t⟩), λ = (t/(1 − t))². Tilted by
    exp(w·Q) with Q(a) = ⟨g, a − m⟩ − ½μ‖a − m‖² it is of the same form, with

        λ′ = λ + wμ  and  λ′x′/t′ = λx/t + w·g + (λ′ − λ)m:

    its mean is the *same* denoiser at another point and time, whatever π̂ is. So for these Q the
    guidance is exact at every w, in the presence of any number of modes, and no Jacobian is asked
    for; to first order in w it is `qgf_jacobian_scheduled`. The result lies where the denoiser
    puts it: guidance of any weight cannot leave the data.

    For another Q: g = ∇Q(s, â₁) at m = â₁ and μ = 0 in the first pass; in each further pass μ is
    the secant curvature between â₁ and the last D(x′, t′), if positive.

    passes        evaluations of the denoiser
    grid          take for t′ the nearest time of the grid: a field that is trained on the grid
                  knows no other. False: t′ as it comes
    second_order  return the acceleration as well, C′x̂₀/(1 − t)³ with C′ = ((1−t′)²/t′)·J₀(x′, t′)
                  and x̂₀ = a_t − t·u: that of a Gaussian conditional law
    Products for n passes: n critic forwards and vjps, n field forwards; second_order: one field
    jvp. At t = 0 the least t′ is the first positive time of the grid, t₁: where wμ < λ(t₁) the
    law is tilted by a curvature that Q does not have. What that alone does to the mean,
    D(t₁m, t₁) − D(a_0, 0) with m = â₁, is taken off in proportion (1 − wμ/λ(t₁)), so that w·G
    vanishes with w; one field forward more at k = 0. At w = 0 itself G = 0 is returned.
    Raises InputError unless passes ≥ 1. Source: qgf_ref/studies/README.md, "correction".
    """

    passes: int = 2
    grid: bool = True
    second_order: bool = False

    name = "qgf_shifted"
    summary = "(D(x′, t′) − D(a_t, t))/(w(1−t)), D = a + (1−t)v at the tilt's point"
    recordable = True
    analytic = False

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int) or self.passes < 1:
            raise InputError(f"passes must be an integer ≥ 1, got {self.passes!r}")

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The move of the denoised action per unit of weight and remaining time."""
        run = flow.kernels
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        if step.time >= 1:  # a_1 is known: C = 0
            return replace(at_query, gradient=run(zeros, step.action))
        curvature = run(zeros, step.action, 1)
        moved = self._denoise(flow, step, at_query.gradient, query.x, curvature)
        for _ in range(self.passes - 1):
            reached = bounded(flow, moved.mean)
            there = critic_gradient(flow, step.obs, reached.x)
            change = run(axpy, -1.0, at_query.gradient, there.gradient)
            curvature = _secant(run, change, run(axpy, -1.0, query.x, reached.x))
            moved = self._denoise(flow, step, at_query.gradient, query.x, curvature)
        mean = self._unmoved(flow, step, query.x, curvature)
        weight = numbers(step.weight, mean.dtype)
        # (m′ − m)/(w(1 − t)), and 0 where w = 0, where it is multiplied by 0
        per_weight = run(ratio, 1.0, run(scaled, 1 - step.time, weight))
        gradient = run(scaled, per_weight, run(axpy, -1.0, mean, moved.mean))
        bent = self._acceleration(flow, step, moved) if self.second_order else None
        return replace(at_query, gradient=run(cast, gradient, mean), acceleration=bent)

    def _unmoved(
        self, flow: GuidedFlow, step: DenoisingStep, centre: Array, curvature: Array
    ) -> Array:
        """What D(x′, t′) is without g: D(a_t, t), but at t = 0, where t′ cannot be 0.

        There m + (1 − wμ/λ₁)⁺(D(t₁m, t₁) − m): of the least λ′, λ₁, Q's own part is wμ.
        """
        run = flow.kernels
        mean = one_step_unclipped(flow, step)
        first = usable_times(flow, step.index)[0]
        if step.time >= first:
            return mean
        nothing = run(zeros, centre)
        still = self._denoise(flow, step, nothing, centre, run(zeros, centre, 1))
        share = run(ratio, run(scaled, numbers(step.weight), curvature), level(first))
        borrowed = run(at_least, run(plus, run(scaled, -1.0, share), 1.0), 0.0)
        gap = run(axpy, -1.0, mean, still.mean)
        return run(cast, run(axpy, borrowed, gap, mean), mean)

    def _denoise(
        self,
        flow: GuidedFlow,
        step: DenoisingStep,
        gradient: Array,
        centre: Array,
        curvature: Array,
    ) -> _Moved:
        """D(x′, t′), λ′x′/t′ = λx/t + w·g + (λ′ − λ)m, with λ′ as near to λ + wμ as t′ can be."""
        run, start = flow.kernels, step.time
        times = usable_times(flow, step.index)
        levels = tuple(level(np.array(times)))
        raised = run(scaled, numbers(step.weight), curvature)
        wanted = run(at_least, run(plus, raised, level(start)), levels[0])
        chosen = run(nearest, wanted, levels, times) if self.grid else run(exact_time, wanted)
        time = run(cast, chosen, curvature)
        left = run(plus, run(scaled, -1.0, time), 1.0)
        odds = run(ratio, time, left)
        natural = run(scaled, start / (1 - start) ** 2, step.action)
        natural = run(axpy, step.weight, gradient, natural)
        gained = run(plus, run(product, odds, odds), -level(start))
        natural = run(axpy, gained, centre, natural)
        scale = run(ratio, run(product, left, left), time)
        x = run(cast, run(scaled, scale, natural), step.action)
        velocity, cache = flow.field.forward(step.obs, x, run(squeeze_last, time))
        return _Moved(run(axpy, left, velocity, x), left, scale, cache)

    def _acceleration(self, flow: GuidedFlow, step: DenoisingStep, moved: _Moved) -> Array:
        """C′x̂₀/(1 − t)³, C′ = ((1 − t′)²/t′)(I + (1 − t′)∂v/∂x′), (1 − t)x̂₀ = a_t − t·m′."""
        run = flow.kernels
        noise = run(axpy, -step.time, moved.mean, step.action)
        moved_dot = optional(flow.field, "jvp")(noise, moved.cache)
        through = run(axpy, moved.left, moved_dot, noise)
        bent = run(scaled, run(ratio, moved.scale, (1 - step.time) ** 4), through)
        return run(cast, bent, noise)

    def products(self, flow: GuidedFlow, index: int) -> Products:
        """A critic gradient and a field forward for each pass; one field jvp for second order; one
        field forward more at k = 0.
        """
        passes = Products(critic_forward=1, critic_vjp=1, field_forward=1)
        total = Products(
            field_jvp=1 if self.second_order else 0, field_forward=1 if index == 0 else 0
        )
        for _ in range(self.passes):
            total += passes
        return total


def _secant(run: Kernels, change: Array, move: Array) -> Array:
    """μ (B, 1) of −μ/2·‖x − x₀‖² with this change of ∇Q over this move x − x₀; 0 if < 0."""
    falls = run(scaled, -1.0, run(row_dot, change, move))
    return run(ratio, falls, run(row_dot, move, move))


@dataclass(frozen=True)
class QGFShiftedTaylor(QGFShifted):
    """`qgf_shifted` with its acceleration: Euler steps of second order.

    Products: those of `qgf_shifted` and one field jvp.
    """

    second_order: bool = True

    name = "qgf_shifted_taylor"
    summary = "qgf_shifted, and Euler steps of second order"
