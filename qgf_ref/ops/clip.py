"""Clamp to a symmetric interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array


class ClipCache(NamedTuple):
    """What `clip` saves: the derivative of every element (0, 1, or the kink's)."""

    slope: Array


def clip(x: Array, bound: float = 1.0, kink: float = 0.5) -> tuple[Array, ClipCache]:
    """y = min(max(x, −bound), bound), elementwise.

    x     (any shape); a complex x is compared by its real part
    kink  the derivative exactly at ±bound; ½ is what jax.numpy.clip has (official.md, section 5)

    jvp   y_dot = c·x_dot;  vjp   x_bar = c·y_bar,  with c = 1 inside, 0 outside, `kink` at ±bound
    """
    size = np.abs(x.real)
    slope = np.where(size < bound, 1.0, np.where(size > bound, 0.0, kink)).astype(size.dtype)
    y = np.where(size <= bound, x, np.sign(x.real) * x.real.dtype.type(bound))
    return y, ClipCache(slope)


def clip_jvp(x_dot: Array, cache: ClipCache) -> Array:
    """y_dot = c·x_dot."""
    return cache.slope * x_dot


def clip_vjp(y_bar: Array, cache: ClipCache) -> Array:
    """x_bar = c·y_bar."""
    return cache.slope * y_bar
