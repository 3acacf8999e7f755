"""Directional derivatives of any function by oracles that know nothing of how a rule was written.

    complex step         J x_dot = Im f(x + i h x_dot)/h                 (to rounding; f analytic)
    central difference   J x_dot ≈ (f(x + h x_dot) − f(x − h x_dot))/2h  (to ~1e-9; f real)

A complex step on code that drops imaginary parts (np.abs, np.linalg.norm, np.vdot, a cast) is the
derivative of another function, and nothing raises. So no oracle here is believed unasked:
`derivatives` compares it with central differences along a random direction, and where the two part
says why, and answers with differences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.imaginary import COMPLEX_WARNING, what_drops_imaginary_parts
from qgf_ref.trees import Function, Tree, leaves, like, norm, shifted

Oracle = Literal["complex_step", "central_difference"]

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


class Derivatives(NamedTuple):
    """J x_dot along each direction, and how far to trust it.

    oracle    by which it was taken
    remark    why not by the one that was asked for, or what limits it; "" where nothing does
    accuracy  relative; 0 where nothing but the oracle's own rounding limits it
    """

    values: list[Tree]
    oracle: str
    remark: str = ""
    accuracy: float = 0.0


class NotAnalytic(UserWarning):
    """An oracle's premise fails: what and why, and what was done instead."""


class Remark(NamedTuple):
    """What limits a derivative, and its relative accuracy."""

    text: str
    accuracy: float


_REMARKS: ContextVar[list[Remark] | None] = ContextVar("remarks", default=None)


@contextmanager
def remarks() -> Iterator[list[Remark]]:
    """Collect what is said meanwhile, in place of warnings."""
    collected: list[Remark] = []
    token = _REMARKS.set(collected)
    try:
        yield collected
    finally:
        _REMARKS.reset(token)


def say(remark: Remark) -> None:
    """Hand a remark to `remarks()`, once each; without one it becomes a warning."""
    collected = _REMARKS.get()
    if collected is None:
        warnings.warn(remark.text, NotAnalytic, stacklevel=6)  # who asked for the derivative
    elif remark.text not in [r.text for r in collected]:
        collected.append(remark)


def remarked(result: Derivatives, what: str) -> list[Tree]:
    """The values; what is remarked of them is said, of `what` in place of f."""
    if result.remark:
        say(Remark(f"{what} {result.remark}", result.accuracy))
    return result.values


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


ORACLES: dict[str, Callable[[Function, Tree, Tree], Tree]] = {
    "complex_step": complex_step,
    "central_difference": central_difference,
}


def derivatives(oracle: str, f: Function, x: Tree, directions: Sequence[Tree]) -> Derivatives:
    """J x_dot along each of the directions, by the oracle if it may be believed.

    One more direction, a random mixture of them, is taken by central differences as well. Where the
    two part, and f has no kink at x, the answer is that of differences with the step that suits f.
    Where f is no function of x with a derivative there, it is NaN, which no rule equals.
    Raises InputError on an unknown name and on answers that are no numbers, and whatever f raises
    on real arguments.
    """
    if oracle not in ORACLES:
        raise unknown_name("oracle", oracle, ORACLES)
    f = _numeric(f)
    premise, answer = _premise(f, x)
    if premise is not None and not premise.harmless:
        nothing = like(tuple(np.full(a.shape, np.nan) for a in leaves(answer)), answer)
        return Derivatives([nothing] * len(directions), oracle, premise.text)
    mix = np.random.default_rng((len(directions), 0x6F7261)).standard_normal(len(directions))
    x_dot = _mixed(mix, directions)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", COMPLEX_WARNING)
            values = [ORACLES[oracle](f, x, direction) for direction in directions]
            objection = premise or _objection(oracle, f, x, x_dot, _mixed(mix, values))
    except Exception as error:
        if oracle != "complex_step":
            raise
        # real arguments raise it again below, unless it is complex ones that f cannot take
        said = " ".join(str(error).split())[:100]
        objection = Objection(f"takes no complex arguments ({type(error).__name__}: {said})")
    if objection is None:
        return Derivatives(values, oracle)
    if objection.harmless:
        return Derivatives(values, oracle, objection.text, FLOAT32_ACCURACY)
    fitted = [fitted_difference(f, x, direction) for direction in directions]
    gap = np.sqrt(sum(d.gap**2 for d in fitted))
    size = np.sqrt(sum(norm(d.value) ** 2 for d in fitted))
    least = FLOAT32_ACCURACY if any(d.coarse for d in fitted) else AGREEMENT
    accuracy = float(min(max(SPREADS * gap / (size or 1.0), least), COARSEST))
    text = f"{objection.text}: judged by differences, good to {accuracy:.0e}"
    return Derivatives([d.value for d in fitted], "central_difference", text, accuracy)


class Objection(NamedTuple):
    """Why an oracle is not believed; harmless: its answer is right, as far as float32 goes."""

    text: str
    harmless: bool = False


def _numeric(f: Function) -> Function:
    """f with arrays of floats for whatever numbers it answers in."""

    @wraps(f)
    def numbers(*x: Any) -> Tree:
        answer = f(*x)
        try:
            arrays = leaves(answer)
        except ValueError:  # rows of several lengths
            arrays = (np.array(None),)
        if not all(a.dtype.kind in "biufc" for a in arrays):
            raise InputError(
                "f must answer in numbers, an array or a tuple of them, got "
                f"{type(answer).__name__} (dtype {', '.join(str(a.dtype) for a in arrays)})"
            )
        # differences of unsigned integers would wrap around
        return like(tuple(a if a.dtype.kind in "fc" else a.astype(float) for a in arrays), answer)

    return numbers


def _premise(f: Function, x: Tree) -> tuple[Objection | None, Tree]:
    """(what makes f no function of x that any oracle could differentiate, f(x))."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first, again = f(x), f(x)
    if not all(np.isfinite(a).all() for a in (*leaves(first), *leaves(again))):
        return Objection("is not finite at x"), again
    apart, scale = _apart(first, again), _scale(first, again)
    if apart <= FLOAT32_ROUNDING * scale:
        return None, again
    text = f"answers the same argument differently, by {apart / scale:.0e} (state? own noise?)"
    return Objection(text, harmless=apart <= 0.1 * FLOAT32_ACCURACY * scale), again


def _precision(y: Tree) -> str:
    """The narrowest floats in y."""
    kinds = [a.dtype for a in leaves(y) if a.dtype.kind in "fc"]
    return "float16" if any(k.itemsize == 2 for k in kinds) else "float32"


def _objection(oracle: str, f: Function, x: Tree, x_dot: Tree, expected: Tree) -> Objection | None:
    """What speaks against the oracle's J x_dot along this direction; None where nothing does."""
    # beside differences of the usual step, those of another
    step = _unit(x, x_dot) * (1e-6 if oracle == "complex_step" else 1e-5)
    near = central_difference(f, x, x_dot, step)
    single = any(a.dtype.itemsize < 8 for a in leaves(near))
    agreeing = not single and _apart(expected, near) <= AGREEMENT * _scale(expected, near)
    # what they agree on to 1e-6 may still be two functions, of which one drops a small part
    places = ""
    if oracle == "complex_step" and not single:
        places = what_drops_imaginary_parts(getattr(f, "__wrapped__", f), shifted(x, 1e-30j, x_dot))
    if agreeing and not places:
        return None
    fitted = fitted_difference(f, x, x_dot)
    if agreeing:
        room = max(SPREADS**2 * fitted.gap, fitted.floor)
        return None if fitted.coarse or _apart(fitted.value, expected) <= room else _drops(places)
    if fitted.explains(expected):
        text = f"computes in {fitted.precision}"
        return Objection(text, harmless=True) if fitted.coarse else None
    if fitted.coarse:
        return Objection(f"computes in {fitted.precision}")
    if oracle == "central_difference":
        return Objection("has no difference quotients that agree")
    # at a kink the two part of an analytic function as well, a little beside it they do not
    away = np.random.default_rng(0x6B696E6B)
    beside = like(
        tuple(a + 1e-3 * (_largest(x) or 1) * away.standard_normal(a.shape) for a in leaves(x)), x
    )
    if fitted_difference(f, beside, x_dot).explains(complex_step(f, beside, x_dot)):
        return None
    return _drops(places)


def _drops(places: str) -> Objection:
    return Objection(f"is not analytic ({places or 'it drops imaginary parts'})")


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
        scale = _scale(self.value, expected)
        room = max(AGREEMENT * scale, min(SPREADS * self.gap, COARSEST * scale), self.floor)
        return _apart(self.value, expected) <= room


def fitted_difference(f: Function, x: Tree, x_dot: Tree) -> Quotient:
    """`central_difference` with the step at which two neighbouring steps agree best.

    From 1e-2 down to 1e-8 of x's size, and of 1 where that is larger or smaller. Steps so small
    that f, rounding x, does not see them in most of its values are left out.
    """
    y = f(x)
    whole = 1 / (_largest(x_dot) or 1.0)
    own = max(_unit(x, x_dot), 1e-6 * whole)
    precision = _precision(y)
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
        gap = np.inf if last is None else _apart(value, last)
        if gap < best.gap:
            noisy = gap * step > FLOAT32_ROUNDING * norm(y)
            best = Quotient(value, gap, floor, coarse or noisy, precision)
        last = value
    return best


def _mixed(mix: Array, trees: Sequence[Tree]) -> Tree:
    columns = zip(*map(leaves, trees), strict=True)
    return like(tuple(sum(m * a for m, a in zip(mix, column)) for column in columns), trees[0])


def _apart(x: Tree, y: Tree) -> float:
    return norm(shifted(x, -1, y))


def _scale(x: Tree, y: Tree) -> float:
    return max(norm(x), norm(y))


def _largest(x: Tree) -> float:
    return max((float(np.abs(a).max(initial=0)) for a in leaves(x)), default=0.0)


def _unit(x: Tree, x_dot: Tree) -> float:
    """The step along x_dot that moves x by as much as its own size; by 1 where x is 0."""
    return (_largest(x) or 1.0) / (_largest(x_dot) or 1.0)
