"""Difference quotients and the complex step of any function, and the step that suits one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from qgf_ref.trees import Function, Tree, leaves, like, norm, shifted

Together = Callable[[list[Tree]], Sequence[Tree]]
"""A function at each of several arguments."""
AGREEMENT = 1e-6
"""Relative, between a complex step and a central difference of an analytic function (measured 1e-9
and better; of two differences with other steps as well)."""
SPREADS = 10.0
"""Times by which two differences of neighbouring steps are apart: how far from the truth they may
be. Of the best pair, truncation and rounding are of the size of that distance."""
FLOAT32_ACCURACY = 1e-4
"""Of a derivative with float32 inside: LayerNorm divides by small deviations."""
FLOAT32_ROUNDING = 1e-9
"""Relative noise of a function's values from which it does not compute in float64 (whose is 1e-16,
float32's 6e-8)."""
COARSEST = 0.1
"""Accuracy that is never granted: a check that forgives more says nothing."""


def complex_step(f: Function, x: Tree, x_dot: Tree, h: float = 1e-30) -> Tree:
    """J x_dot = Im f(x + i h x_dot)/h, exact to rounding for analytic f (no cancellation)."""
    y = f(shifted(x, 1j * h, x_dot))
    # in float64: 1e-30 is 0 in float16
    return like(tuple(np.divide(a.imag, h, dtype=np.float64) for a in leaves(y)), y)


def central_difference(f: Function, x: Tree, x_dot: Tree, h: float = 1e-6) -> Tree:
    """J x_dot ≈ (f(x + h x_dot) − f(x − h x_dot))/2h, error O(h²) + O(rounding/h)."""
    plus, minus = f(shifted(x, h, x_dot)), f(shifted(x, -h, x_dot))
    difference = shifted(plus, -1, minus)
    return like(tuple(a / (2 * h) for a in leaves(difference)), difference)


def central_differences(
    together: Together, x: Tree, directions: Sequence[Tree], h: float = 1e-6
) -> list[Tree]:
    """`central_difference` along each of the directions, from one call of the function."""
    points = [shifted(x, step, x_dot) for x_dot in directions for step in (h, -h)]
    answers = iter(together(points))
    differences = [shifted(plus, -1, minus) for plus, minus in zip(answers, answers)]
    return [like(tuple(a / (2 * h) for a in leaves(d)), d) for d in differences]


class Quotient(NamedTuple):
    """The central difference of the step that suits f: from a step to the next, gap is least.

    floor   what rounding hides at any step
    coarse  whether f's values are as noisy as float32 numbers
    precision  the narrower floats that they are, or are as noisy as
    """

    value: Tree
    gap: float
    floor: float
    coarse: bool
    precision: str = "float32"

    def explains(self, expected: Tree) -> bool:
        """Whether `expected` is the same derivative, as far as differences can tell."""
        scale = scale_of(self.value, expected)
        room = max(AGREEMENT * scale, min(SPREADS * self.gap, COARSEST * scale), self.floor)
        return apart(self.value, expected) <= room


def fitted_difference(f: Function, x: Tree, x_dot: Tree) -> Quotient:
    """`central_difference` with the step at which two neighbouring steps agree best.

    From 1e-2 down to 1e-8 of x's size, and of 1 where that is larger or smaller. Steps so small
    that f, rounding x, does not see them in most of its values are left out.
    """
    y = f(x)
    whole = 1 / (largest(x_dot) or 1.0)
    own = max(unit_step(x, x_dot), 1e-6 * whole)
    precision = narrowest(y)
    # float16 numbers are 1e-3 apart
    widest = 0.3 if precision == "float16" else 1e-2
    top, bottom = max(own, whole) * widest, min(own, whole) * 1e-8
    steps = np.geomspace(top, bottom, 1 + round(2 * np.log10(top / bottom)))
    floor = SPREADS * np.finfo(np.float64).eps * norm(y) / top
    coarse = any(a.dtype.itemsize < 8 for a in leaves(y))
    best = Quotient(like(tuple(a * np.nan for a in leaves(y)), y), np.inf, floor, coarse, precision)
    seen, last = 0, None
    for step in steps:
        value = central_difference(f, x, x_dot, float(step))
        count = sum(int(np.count_nonzero(a)) for a in leaves(value))
        seen = max(seen, count)
        if 2 * count < seen:
            break
        gap = np.inf if last is None else apart(value, last)
        if gap < best.gap:
            noisy = gap * step > FLOAT32_ROUNDING * norm(y)
            best = Quotient(value, gap, floor, coarse or noisy, precision)
        last = value
    return best


def narrowest(y: Tree) -> str:
    """The narrowest floats in y."""
    kinds = [a.dtype for a in leaves(y) if a.dtype.kind in "fc"]
    return "float16" if any(k.itemsize == 2 for k in kinds) else "float32"


def apart(x: Tree, y: Tree) -> float:
    """‖x − y‖."""
    return norm(shifted(x, -1, y))


def scale_of(x: Tree, y: Tree) -> float:
    """The larger of the two norms."""
    return max(norm(x), norm(y))


def largest(x: Tree) -> float:
    """The largest size of an element; 0 where there is none."""
    return max((float(np.abs(a).max(initial=0)) for a in leaves(x)), default=0.0)


def unit_step(x: Tree, x_dot: Tree) -> float:
    """The step along x_dot that moves x by as much as its own size; by 1 where x is 0."""
    return (largest(x) or 1.0) / (largest(x_dot) or 1.0)
