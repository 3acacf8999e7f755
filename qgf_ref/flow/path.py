"""The linear path from noise x0 (t = 0) to action x1 (t = 1)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.ops.learning import path_point
from qgf_ref.ops.time_embedding import Precision


def interpolate(x0: Array, x1: Array, t: Array) -> Array:
    """x_t = (1 − t)x0 + t x1. x0, x1 (B, D), t (B,). Source: method.md, section 1."""
    return path_point(x0, x1, t)[0]


def velocity_target(x0: Array, x1: Array) -> Array:
    """dx_t/dt = x1 − x0, (B, D)."""
    return x1 - x0


MAX_STEPS = 100_000
"""More Euler steps than anyone needs; a larger T is a mistake that would eat memory."""


def check_steps(denoise_steps: int) -> int:
    """T as an int; raises InputError unless it is an integer from 1 to MAX_STEPS."""
    if isinstance(denoise_steps, bool) or not isinstance(denoise_steps, int | np.integer):
        raise InputError(f"denoise_steps must be an integer, got {denoise_steps!r}")
    if not 1 <= denoise_steps <= MAX_STEPS:
        raise InputError(f"denoise_steps must be from 1 to {MAX_STEPS}, got {denoise_steps}")
    return int(denoise_steps)


def time_grid(denoise_steps: int, precision: Precision = "exact") -> tuple[float, ...]:
    """The times 0, 1/T, …, (T−1)/T at which the sampler evaluates the field.

    precision "float32": what the official code's jitted sampler computes, fl(k)·fl(1/T) in float32
    (XLA turns the division by a constant into that product; it is not fl(k/T) for T = 7 at
    k = 3 and 6, nor for T = 10 at k = 9, and the embedding's angle moves by 6e-4 rad).
    Raises InputError as `check_steps` does.
    """
    return _grid(check_steps(denoise_steps), precision)


@lru_cache(maxsize=64)
def _grid(T: int, precision: Precision) -> tuple[float, ...]:
    if precision == "float32":
        return tuple(float(np.float32(k) * np.float32(1 / T)) for k in range(T))
    return tuple(k / T for k in range(T))


def sample_times(rng: np.random.Generator, rows: int, denoise_steps: int) -> Array:
    """Training times (rows,): uniform on the grid {0, 1/T, …, 1}, both ends included.

    The official choice; the paper's formula is U[0, 1] (method.md, section 1).
    """
    return rng.integers(0, denoise_steps + 1, size=rows) / denoise_steps
