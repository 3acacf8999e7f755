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
from qgf_ref.ops.structure import axpy, zeros


def level(time: float | Array) -> Any:
    """λ(t) = (t/(1 − t))², the precision that x_t adds to a_1."""
    return np.square(time / (1 - time))


def usable_times(flow: GuidedFlow, index: int) -> tuple[float, ...]:
    """The times from t_index on at which D(x, t) depends on x and is not x: those of the grid but 0
    (and 1, which a port's grid may hold).

    With T = 1 there is none and t = 1/2 takes its place, as in `qgf_jacobian_scheduled`.
    """
    return tuple(t for t in flow.times[index:] if 0 < t < 1) or (0.5,)


def nearest_time(
    curvature: Array, weight: float | Array, start: float, times: tuple[float, ...]
) -> tuple[Array, Array]:
    """t′, the one of `times` whose λ is nearest to λ(start) + w·μ by ratio, (B,) and as (B, 1).

    curvature: μ (B, 1).
    """
    grid = np.array(times)
    levels = level(grid)
    wanted = np.maximum(level(start) + np.asarray(weight) * curvature, levels[0])
    chosen = grid[np.abs(np.log(levels / wanted)).argmin(axis=1)].astype(curvature.dtype)
    return chosen, chosen[:, None]


def exact_time(
    curvature: Array, weight: float | Array, start: float, times: tuple[float, ...]
) -> tuple[Array, Array]:
    """t′ with λ(t′) = λ(start) + w·μ, but not before the first of `times`, (B,) and as (B, 1)."""
    root = np.sqrt(np.maximum(level(start) + np.asarray(weight) * curvature, level(times[0])))
    chosen = (root / (1 + root)).astype(curvature.dtype)
    return chosen[:, 0], chosen


def shifted_point(
    action: Array, gradient: Array, centre: Array, weight: float | Array, start: float, time: Array
) -> Array:
    """x′ (B, D) with λ′x′/t′ = λx/t + w·g + (λ′ − λ)m: see `QGFShifted`. time t′ (B, 1)."""
    natural = action * (start / (1 - start) ** 2) + weight * gradient
    natural = natural + (level(time) - level(start)) * centre
    return np.asarray((natural * ((1 - time) ** 2 / time)).astype(action.dtype))


def denoised(x: Array, velocity: Array, time: Array) -> Array:
    """D(x, t) = x + (1 − t)v, (B, D), each row at its own time (B, 1)."""
    return x + (1 - time) * velocity


def acceleration(noise: Array, noise_dot: Array, time: float, later: Array) -> Array:
    """C′x̂₀/(1 − t)³, (B, D), C′ = ((1 − t′)²/t′)(I + (1 − t′)∂v/∂x′). later t′ (B, 1).

    noise: (1 − t)x̂₀ = a_t − t·m′; noise_dot: (∂v/∂x′) of it.
    """
    through = noise + (1 - later) * noise_dot
    return np.asarray((1 - later) ** 2 / later / (1 - time) ** 4 * through)


def secant_curvature(gradient: Array, previous: Array, x: Array, x_previous: Array) -> Array:
    """μ (B, 1) of −μ/2·‖x − x₀‖² with the change of ∇Q from x₀ to x, along that line; 0 if < 0."""
    move = x - x_previous
    length = (move * move).sum(axis=1, keepdims=True)
    falls = -((gradient - previous) * move).sum(axis=1, keepdims=True)
    still = length == 0
    return np.asarray(np.where(still, 0, np.maximum(falls, 0) / np.where(still, 1, length)))


def without_tilt(
    mean: Array, still: Array, curvature: Array, weight: float | Array, first: float
) -> Array:
    """m + (1 − wμ/λ₁)⁺(D(t₁m, t₁) − m), (B, D): of the least λ′, λ₁, Q's own part is wμ."""
    borrowed = np.maximum(1 - np.asarray(weight) * curvature / level(first), 0)
    return np.asarray((mean + borrowed * (still - mean)).astype(mean.dtype))


def rate(moved: Array, mean: Array, weight: float | Array, time: float) -> Array:
    """(m′ − m)/(w(1 − t)), and 0 where w = 0, where it is multiplied by 0."""
    weight = np.asarray(weight, dtype=mean.dtype)
    zero = weight == 0
    scale = np.where(zero, 0, 1 / (np.where(zero, 1, weight) * (1 - time)))
    return np.asarray((scale * (moved - mean)).astype(mean.dtype))


class _Denoised(NamedTuple):
    """D(x′, t′) (B, D), t′ (B, 1), and the field's cache there."""

    mean: Array
    time: Array
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
    analytic = False

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int) or self.passes < 1:
            raise InputError(f"passes must be an integer ≥ 1, got {self.passes!r}")

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The move of the denoised action per unit of weight and remaining time."""
        query = one_step_estimate(flow, step)
        at_query = critic_gradient(flow, step.obs, query.x)
        if step.time >= 1:  # a_1 is known: C = 0
            return replace(at_query, gradient=flow.kernels(zeros, step.action))
        curvature = flow.kernels(zeros, step.action, 1)
        moved = self._denoise(flow, step, at_query.gradient, query.x, curvature)
        for _ in range(self.passes - 1):
            reached = bounded(flow, moved.mean)
            there = critic_gradient(flow, step.obs, reached.x)
            curvature = flow.kernels(
                secant_curvature, there.gradient, at_query.gradient, reached.x, query.x
            )
            moved = self._denoise(flow, step, at_query.gradient, query.x, curvature)
        mean = self._unmoved(flow, step, query.x, curvature)
        gradient = flow.kernels(rate, moved.mean, mean, step.weight, step.time)
        bent = self._acceleration(flow, step, moved) if self.second_order else None
        return replace(at_query, gradient=gradient, acceleration=bent)

    def _unmoved(
        self, flow: GuidedFlow, step: DenoisingStep, centre: Array, curvature: Array
    ) -> Array:
        """What D(x′, t′) is without g: D(a_t, t), but at t = 0, where t′ cannot be 0."""
        mean = one_step_unclipped(flow, step)
        first = usable_times(flow, step.index)[0]
        if step.time >= first:
            return mean
        nothing = flow.kernels(zeros, centre)
        still = self._denoise(flow, step, nothing, centre, flow.kernels(zeros, centre, 1))
        return flow.kernels(without_tilt, mean, still.mean, curvature, step.weight, first)

    def _denoise(
        self,
        flow: GuidedFlow,
        step: DenoisingStep,
        gradient: Array,
        centre: Array,
        curvature: Array,
    ) -> _Denoised:
        times = usable_times(flow, step.index)
        choose = nearest_time if self.grid else exact_time
        time, column = flow.kernels(choose, curvature, step.weight, step.time, times)
        x = flow.kernels(
            shifted_point, step.action, gradient, centre, step.weight, step.time, column
        )
        velocity, cache = flow.field.forward(step.obs, x, time)
        return _Denoised(flow.kernels(denoised, x, velocity, column), column, cache)

    def _acceleration(self, flow: GuidedFlow, step: DenoisingStep, moved: _Denoised) -> Array:
        noise = flow.kernels(axpy, -step.time, moved.mean, step.action)
        noise_dot = flow.field.jvp(noise, moved.cache)
        return flow.kernels(acceleration, noise, noise_dot, step.time, moved.time)

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


@dataclass(frozen=True)
class QGFShiftedTaylor(QGFShifted):
    """`qgf_shifted` with its acceleration: Euler steps of second order.

    Products: those of `qgf_shifted` and one field jvp.
    """

    second_order: bool = True

    name = "qgf_shifted_taylor"
    summary = "qgf_shifted, and Euler steps of second order"
