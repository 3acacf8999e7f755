"""Euler integration: the one loop over flow time, and the rollout with its jvp and vjp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from qgf_ref.arrays import Array
from qgf_ref.nets.velocity import VelocityField
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.structure import axpy, scaled

Drift = Callable[[int, float, Array], Array]
"""(step k, time t_k, action a_t) → what multiplies 1/T in the update."""


def integrate(
    drift: Drift,
    action: Array,
    times: Sequence[float],
    *,
    start: int = 0,
    kernels: Kernels = reference_kernels,
) -> Iterator[Array]:
    """Yield a after each Euler step a ← a + drift(k, t_k, a)/T, for k = start … T−1.

    times (T,) is the whole grid (`time_grid`). The sampler's denoising loop and the estimators'
    rollouts are both this loop.
    """
    for k in range(start, len(times)):
        action = kernels(axpy, 1 / len(times), drift(k, times[k], action), action)
        yield action


class RolloutCache(NamedTuple):
    """The field's caches of every step, in order, and the number of steps of the whole flow."""

    steps: tuple[Any, ...]
    denoise_steps: int


def rollout(
    field: VelocityField,
    obs: Array,
    action: Array,
    times: Sequence[float],
    *,
    start: int = 0,
    first: tuple[Array, Any] | None = None,
    kernels: Kernels = reference_kernels,
) -> tuple[Array, RolloutCache]:
    """ODE(a): Euler from t_start to 1 along v. action (B, D) → (B, D), not clipped.

    first   v and cache of the field at (obs, action, t_start) if the caller already has them
    jvp     a_dot ← a_dot + (1/T)(∂v/∂a) a_dot, step by step
    vjp     a_bar ← a_bar + (1/T)(∂v/∂a)ᵀ a_bar, backwards through the steps
    """
    caches: list[Any] = []

    def drift(k: int, time: float, a: Array) -> Array:
        at_hand = k == start and first is not None
        velocity, cache = first if at_hand and first else field.forward(obs, a, time)
        caches.append(cache)
        return velocity

    for state in integrate(drift, action, times, start=start, kernels=kernels):
        action = state
    return action, RolloutCache(tuple(caches), len(times))


def rollout_jvp(
    field: VelocityField,
    action_dot: Array,
    cache: RolloutCache,
    kernels: Kernels = reference_kernels,
) -> Array:
    """(∂ODE/∂a) action_dot, (B, D)."""
    for step in cache.steps:
        velocity_dot = field.jvp(action_dot, step)
        action_dot = kernels(axpy, 1 / cache.denoise_steps, velocity_dot, action_dot)
    return action_dot


def rollout_vjp(
    field: VelocityField,
    action_bar: Array,
    cache: RolloutCache,
    kernels: Kernels = reference_kernels,
) -> Array:
    """(∂ODE/∂a)ᵀ action_bar, (B, D)."""
    for step in reversed(cache.steps):
        velocity_bar = kernels(scaled, 1 / cache.denoise_steps, action_bar)
        action_bar = kernels(axpy, 1.0, field.vjp(velocity_bar, step), action_bar)
    return action_bar
