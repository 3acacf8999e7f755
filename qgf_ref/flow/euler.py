"""Euler integration: the one loop over flow time, and the rollout with its jvp and vjp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from qgf_ref.arrays import Array
from qgf_ref.flow.path import time_grid
from qgf_ref.nets.velocity import VelocityField
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.structure import axpy, scaled

Drift = Callable[[int, float, Array], Array]
"""(step k, time k/T, action a_t) → what multiplies 1/T in the update."""


def integrate(
    drift: Drift,
    action: Array,
    denoise_steps: int,
    *,
    start: int = 0,
    kernels: Kernels = reference_kernels,
) -> Iterator[Array]:
    """Yield a after each Euler step a ← a + drift(k, k/T, a)/T, for k = start … T−1.

    The sampler's denoising loop and the estimators' rollouts are both this loop.
    """
    times = time_grid(denoise_steps)
    for k in range(start, denoise_steps):
        action = kernels(axpy, 1 / denoise_steps, drift(k, times[k], action), action)
        yield action


class RolloutCache(NamedTuple):
    """The field's caches of every step, in order, and the number of steps of the whole flow."""

    steps: tuple[Any, ...]
    denoise_steps: int


def rollout(
    field: VelocityField,
    obs: Array,
    action: Array,
    denoise_steps: int,
    *,
    start: int = 0,
    first: tuple[Array, Any] | None = None,
    kernels: Kernels = reference_kernels,
) -> tuple[Array, RolloutCache]:
    """ODE(a): Euler from t = start/T to 1 along v. action (B, D) → (B, D), not clipped.

    first   v and cache of the field at (obs, action, start/T) if the caller already has them
    jvp     a_dot ← a_dot + (1/T)(∂v/∂a) a_dot, step by step
    vjp     a_bar ← a_bar + (1/T)(∂v/∂a)ᵀ a_bar, backwards through the steps
    """
    caches: list[Any] = []

    def drift(k: int, time: float, a: Array) -> Array:
        at_hand = k == start and first is not None
        velocity, cache = first if at_hand and first else field.forward(obs, a, time)
        caches.append(cache)
        return velocity

    for state in integrate(drift, action, denoise_steps, start=start, kernels=kernels):
        action = state
    return action, RolloutCache(tuple(caches), denoise_steps)


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
