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
from qgf_ref.imaginary import casts_ignored, what_drops_imaginary_parts
from qgf_ref.quotients import (
    AGREEMENT,
    COARSEST,
    FLOAT32_ACCURACY,
    FLOAT32_ROUNDING,
    SPREADS,
    Together,
    apart,
    central_difference,
    central_differences,
    complex_step,
    fitted_difference,
    largest,
    scale_of,
    unit_step,
)
from qgf_ref.trees import Function, Tree, leaves, like, norm, own_copy, shifted

Oracle = Literal["complex_step", "central_difference"]


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


ORACLES: dict[str, Callable[[Function, Tree, Tree], Tree]] = {
    "complex_step": complex_step,
    "central_difference": central_difference,
}


def derivatives(
    oracle: str,
    f: Function,
    x: Tree,
    directions: Sequence[Tree],
    together: Together | None = None,
) -> Derivatives:
    """J x_dot along each of the directions, by the oracle if it may be believed.

    together  f at several arguments in one call, where differences are to be taken from that
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
        with casts_ignored():
            if together is not None and oracle == "central_difference":
                values = central_differences(together, x, directions)
            else:
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
    """f with arrays of floats of our own for whatever numbers it answers in, given copies."""

    @wraps(f)
    def numbers(*x: Any) -> Tree:
        answer = f(*map(own_copy, x))
        try:
            arrays = leaves(answer)
        except ValueError:  # rows of several lengths
            arrays = (np.array(None),)
        if not all(a.dtype.kind in "biufc" for a in arrays):
            raise InputError(
                "f must answer in numbers, an array or a tuple of them, got "
                f"{type(answer).__name__} (dtype {', '.join(str(a.dtype) for a in arrays)})"
            )
        # differences of unsigned integers would wrap around; f may answer in one array for ever
        return like(
            tuple(np.array(a) if a.dtype.kind in "fc" else a.astype(float) for a in arrays), answer
        )

    return numbers


def _premise(f: Function, x: Tree) -> tuple[Objection | None, Tree]:
    """(what makes f no function of x that any oracle could differentiate, f(x))."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first, again = f(x), f(x)
    if not all(np.isfinite(a).all() for a in (*leaves(first), *leaves(again))):
        return Objection("is not finite at x"), again
    gap, scale = apart(first, again), scale_of(first, again)
    if gap <= FLOAT32_ROUNDING * scale:
        return None, again
    text = f"answers the same argument differently, by {gap / scale:.0e} (state? own noise?)"
    return Objection(text, harmless=gap <= 0.1 * FLOAT32_ACCURACY * scale), again


def _objection(oracle: str, f: Function, x: Tree, x_dot: Tree, expected: Tree) -> Objection | None:
    """What speaks against the oracle's J x_dot along this direction; None where nothing does."""
    # beside differences of the usual step, those of another
    step = unit_step(x, x_dot) * (1e-6 if oracle == "complex_step" else 1e-5)
    near = central_difference(f, x, x_dot, step)
    single = any(a.dtype.itemsize < 8 for a in leaves(near))
    agreeing = not single and apart(expected, near) <= AGREEMENT * scale_of(expected, near)
    # what they agree on to 1e-6 may still be two functions, of which one drops a small part
    places = ""
    if oracle == "complex_step" and not single:
        places = what_drops_imaginary_parts(getattr(f, "__wrapped__", f), shifted(x, 1e-30j, x_dot))
    if agreeing and not places:
        return None
    fitted = fitted_difference(f, x, x_dot)
    if agreeing:
        room = max(SPREADS**2 * fitted.gap, fitted.floor)
        return None if fitted.coarse or apart(fitted.value, expected) <= room else _drops(places)
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
        tuple(a + 1e-3 * (largest(x) or 1) * away.standard_normal(a.shape) for a in leaves(x)), x
    )
    if fitted_difference(f, beside, x_dot).explains(complex_step(f, beside, x_dot)):
        return None
    return _drops(places)


def _drops(places: str) -> Objection:
    return Objection(f"is not analytic ({places or 'it drops imaginary parts'})")


def _mixed(mix: Array, trees: Sequence[Tree]) -> Tree:
    columns = zip(*map(leaves, trees), strict=True)
    return like(tuple(sum(m * a for m, a in zip(mix, column)) for column in columns), trees[0])
