"""Clamp to an interval, symmetric or one for each coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


@dataclass(frozen=True)
class Box:
    """An interval for each coordinate: low ≤ x ≤ high, D numbers each; ±inf where one is open."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def scaled(self, factor: float) -> Box:
        """Both ends times a factor > 0."""
        return Box(tuple(factor * x for x in self.low), tuple(factor * x for x in self.high))


Bound = float | Box
"""±number for all coordinates alike, or a box."""


def action_bound(value: Any, width: int) -> Bound | None:
    """A bound as a person gives it: a number > 0, None, or (low, high), each a number or (D,).

    width  D. Raises InputError on anything else, and unless low < high.
    """
    if value is None:
        return None
    pair: Any
    if isinstance(value, Box):
        pair = value.low, value.high
    elif isinstance(value, tuple | list) and len(value) == 2:
        pair = value
    elif isinstance(value, int | float | np.number) and value > 0:
        return value  # type: ignore[return-value]
    else:
        raise InputError(
            "action_bound must be positive or None, or a pair (low, high), each a number or "
            f"D = {width} numbers, got {value!r}"
        )
    try:
        low, high = (np.broadcast_to(np.asarray(end, np.float64), (width,)) for end in pair)
    except (TypeError, ValueError):
        shapes = " and ".join(str(np.shape(end)) for end in pair)
        raise InputError(
            f"the ends of action_bound must be numbers, or D = {width} numbers each, got {shapes}"
        ) from None
    if not (low < high).all():
        i = int((~(low < high)).argmax())
        raise InputError(
            f"action_bound needs low < high, got {low[i]:g} and {high[i]:g} for coordinate {i}"
        )
    if np.isfinite(high[0]) and (high == high[0]).all() and (low == -high).all():
        return float(high[0])  # ±number
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def limits(bound: Bound, like: Array) -> tuple[Any, Any]:
    """The lowest and highest value, of the real dtype of `like`: numbers, or (D,) of a box."""
    real = like.real.dtype
    if isinstance(bound, Box):
        return np.array(bound.low, real), np.array(bound.high, real)
    return real.type(-bound), real.type(bound)


def outside(x: Array, bound: Bound) -> Array:
    """Where x leaves the bound, booleans of its shape."""
    low, high = limits(bound, x)
    outer: Array = (x < low) | (x > high)
    return outer


class ClipCache(NamedTuple):
    """What `clip` saves: the derivative of every element (0, 1, or the kink's)."""

    slope: Array


def clip(x: Array, bound: Bound = 1.0, kink: float = 0.5) -> tuple[Array, ClipCache]:
    """y = min(max(x, low), high), elementwise; low, high = ∓bound, or a box's.

    x     (any shape), (…, D) for a box; a complex x is compared by its real part
    kink  the derivative exactly at an end; ½ is what jax.numpy.clip has (official.md, section 5)

    jvp   y_dot = c·x_dot;  vjp   x_bar = c·y_bar,  with c = 1 inside, 0 outside, `kink` at an end
    """
    low, high = limits(bound, x)
    below, above = x.real < low, x.real > high
    inside = (x.real > low) & (x.real < high)
    slope = np.where(inside, 1.0, np.where(below | above, 0.0, kink)).astype(low.dtype)
    return np.where(below, low, np.where(above, high, x)), ClipCache(slope)


def clip_jvp(x_dot: Array, cache: ClipCache) -> Array:
    """y_dot = c·x_dot."""
    return cache.slope * x_dot


def clip_vjp(y_bar: Array, cache: ClipCache) -> Array:
    """x_bar = c·y_bar."""
    return cache.slope * y_bar
