"""The checkers themselves: they must pass what is right and catch planted errors."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import (
    Check,
    DerivativeMismatch,
    check_adjoint,
    check_jvp,
    check_vjp,
)
from qgf_ref.errors import InputError

W = np.random.default_rng(5).standard_normal((4, 3))
X = np.random.default_rng(6).standard_normal((5, 4))


def f(x: Array) -> Array:
    return np.asarray(np.tanh(x @ W) * x[:, :1])


def slope(x: Array) -> Array:
    return np.asarray((1 - np.tanh(x @ W) ** 2) * x[:, :1])


def jvp(x: Array, x_dot: Array) -> Array:
    return np.asarray(slope(x) * (x_dot @ W) + np.tanh(x @ W) * x_dot[:, :1])


def vjp(x: Array, y_bar: Array) -> Array:
    x_bar = np.asarray((slope(x) * y_bar) @ W.T)
    x_bar[:, 0] += (np.tanh(x @ W) * y_bar).sum(axis=1)
    return x_bar


PLANTED_JVPS: dict[str, Callable[[Array, Array], Array]] = {
    "factor 1.001": lambda x, u: 1.001 * jvp(x, u),
    "dropped term": lambda x, u: slope(x) * (u @ W),
    "ignored tangent": lambda x, u: jvp(x, np.ones_like(u)),
    "wrong axis": lambda x, u: jvp(x, u[::-1]),
    "zero": lambda x, u: np.zeros((5, 3)),
    "NaN": lambda x, u: np.full((5, 3), np.nan),
    "tiny relative error": lambda x, u: jvp(x, u) * (1 + 1e-11),
}
PLANTED_VJPS: dict[str, Callable[[Array, Array], Array]] = {
    "factor 1.001": lambda x, u: 1.001 * vjp(x, u),
    "dropped term": lambda x, u: (slope(x) * u) @ W.T,
    "ignored cotangent": lambda x, u: vjp(x, np.ones_like(u)),
    "wrong axis": lambda x, u: vjp(x, u[::-1]),
    "zero": lambda x, u: np.zeros((5, 4)),
    "batch mean": lambda x, u: vjp(x, u) / len(x),
}


def test_right_rules_pass() -> None:
    for oracle in ("complex_step", "central_difference"):
        assert check_jvp(f, jvp, X, oracle=oracle).passed
        assert check_vjp(f, vjp, X, oracle=oracle).passed
        assert check_vjp(f, vjp, X, oracle=oracle, max_full=0).passed
    assert check_adjoint(f, jvp, vjp, X).error < 1e-15


@pytest.mark.parametrize("name", PLANTED_JVPS)
def test_planted_jvp_errors_are_caught(name: str) -> None:
    with pytest.raises(DerivativeMismatch, match="WRONG"):
        check_jvp(f, PLANTED_JVPS[name], X)
    # a jvp that mixes up rows consistently is no longer the transpose of the right vjp either
    with pytest.raises(DerivativeMismatch):
        check_adjoint(f, PLANTED_JVPS[name], vjp, X)


@pytest.mark.parametrize("name", PLANTED_VJPS)
@pytest.mark.parametrize("max_full", [0, 64])
def test_planted_vjp_errors_are_caught(name: str, max_full: int) -> None:
    with pytest.raises(DerivativeMismatch, match="WRONG"):
        check_vjp(f, PLANTED_VJPS[name], X, max_full=max_full)
    with pytest.raises(DerivativeMismatch):
        check_adjoint(f, jvp, PLANTED_VJPS[name], X)


def test_a_consistent_pair_of_wrong_rules_passes_the_adjoint_but_not_the_oracles() -> None:
    def wrong_jvp(x: Array, u: Array) -> Array:
        return 2 * jvp(x, u)

    def wrong_vjp(x: Array, u: Array) -> Array:
        return 2 * vjp(x, u)

    assert check_adjoint(f, wrong_jvp, wrong_vjp, X).passed
    assert not check_jvp(f, wrong_jvp, X, raises=False).passed
    assert not check_vjp(f, wrong_vjp, X, raises=False).passed


def test_a_small_true_derivative_does_not_hide_an_error() -> None:
    def tiny(x: Array) -> Array:
        return 1e-20 * np.sin(x)

    assert check_jvp(tiny, lambda x, u: 1e-20 * np.cos(x) * u, X).passed
    assert not check_jvp(tiny, lambda x, u: 2e-20 * np.cos(x) * u, X, raises=False).passed


def test_a_zero_derivative_must_be_exactly_zero() -> None:
    def constant(x: Array) -> Array:
        return np.ones_like(x)

    assert check_jvp(constant, lambda x, u: np.zeros_like(u), X).passed
    assert not check_jvp(constant, lambda x, u: 1e-100 * np.ones_like(u), X, raises=False).passed


def test_tuples_in_and_out() -> None:
    def both(x: Any) -> Any:
        return x[0] * x[1], np.sin(x[0])

    def both_jvp(x: Any, u: Any) -> Any:
        return u[0] * x[1] + x[0] * u[1], np.cos(x[0]) * u[0]

    def both_vjp(x: Any, y: Any) -> Any:
        return y[0] * x[1] + np.cos(x[0]) * y[1], y[0] * x[0]

    point = (X[:2], X[2:4])
    assert check_jvp(both, both_jvp, point).passed
    assert check_vjp(both, both_vjp, point).passed
    assert check_adjoint(both, both_jvp, both_vjp, point).passed


def test_messages_and_arguments() -> None:
    with pytest.raises(ValueError, match="shape"):
        check_jvp(f, lambda x, u: np.zeros((5, 2)), X)
    with pytest.raises(InputError, match="complex_step"):
        check_jvp(f, jvp, X, oracle="magic")  # type: ignore[arg-type]
    assert not Check("x", "y", float("nan"), 1.0, 1).passed
    assert check_jvp(f, jvp, X) == check_jvp(f, jvp, X), "the same seed gives the same numbers"


class WrongOnce:
    """A jvp and a vjp that are wrong in the first direction only."""

    def __init__(self) -> None:
        self.calls = 0

    def jvp(self, x: Array, x_dot: Array) -> Array:
        self.calls += 1
        return (2 if self.calls == 1 else 1) * jvp(x, x_dot)

    def vjp(self, x: Array, y_bar: Array) -> Array:
        self.calls += 1
        return (2 if self.calls == 1 else 1) * vjp(x, y_bar)


def test_the_worst_direction_counts() -> None:
    assert not check_jvp(f, WrongOnce().jvp, X, raises=False).passed
    assert not check_vjp(f, WrongOnce().vjp, X, raises=False).passed
    assert not check_vjp(f, WrongOnce().vjp, X, max_full=0, raises=False).passed
    assert not check_adjoint(f, WrongOnce().jvp, vjp, X, raises=False).passed


def test_nothing_passes_vacuously() -> None:
    with pytest.raises(InputError, match="directions"):
        check_jvp(f, jvp, X, directions=0)
    with pytest.raises(InputError, match="empty"):
        check_vjp(f, vjp, X[:0])
    with pytest.raises(InputError, match="float64"):
        check_adjoint(f, jvp, vjp, X.astype(np.float32))
    with pytest.raises(InputError, match=r"vjp has shape \(20,\), expected \(5, 4\)"):
        check_vjp(f, lambda x, u: vjp(x, u).ravel(), X)
    with pytest.raises(InputError, match="vjp has shape"):
        check_adjoint(f, jvp, lambda x, u: vjp(x, u)[None], X)
    # integers are points like others: the directions are real numbers all the same
    whole = np.array([[1, 2, 0, -1]])
    assert check_jvp(f, jvp, whole).passed
    for seed in range(20):
        assert not check_jvp(f, lambda x, u: 2 * jvp(x, u), whole, seed=seed, raises=False).passed


KEPT = np.empty((5, 3)), np.empty((5, 4))


def kept(answer: Array) -> Array:
    """The answer, in the one array of its shape that is kept for answers."""
    (place,) = (p for p in KEPT if p.shape == answer.shape)
    place[...] = answer
    return place


IN_PLACE: dict[str, tuple[Any, Any, Any]] = {
    "into the tangent": (np.sin, lambda x, u: np.multiply(u, np.cos(x), out=u), np.cos),
    "into x": (lambda x: np.sin(x, out=x), lambda x, u: np.cos(x, out=x) * u, np.cos),
    "a kept array": (lambda x: kept(x**3), lambda x, u: kept(3 * x**2 * u), lambda x: 3 * x**2),
    "a kept array, not analytic": (
        lambda x: kept(x * np.abs(x)), lambda x, u: kept(2 * abs(x) * u), lambda x: 2 * abs(x),
    ),
}  # fmt: skip
"""f, its jvp (and vjp: they are elementwise), and its derivative."""


@pytest.mark.parametrize("oracle", ["complex_step", "central_difference"])
@pytest.mark.parametrize("how", IN_PLACE)
def test_arrays_that_are_written_into_decide_nothing(how: str, oracle: Any) -> None:
    """A right rule was called wrong, and rules of zero, or of any two factors, passed."""
    function, rule, slope = IN_PLACE[how]
    for check in (check_jvp, check_vjp):
        assert check(function, rule, X, oracle=oracle).passed
        assert check(function, rule, X, oracle=oracle, directions=2, seed=3).passed
        assert not check(function, lambda x, u: kept(0 * u), X, oracle=oracle, raises=False).passed
        assert not check(
            function, lambda x, u: kept(1.01 * slope(x) * u), X, oracle=oracle, raises=False
        ).passed
    assert check_vjp(function, rule, X, oracle=oracle, max_full=0).passed


def test_the_adjoint_identity_of_rules_in_place() -> None:
    def times(factor: float, x: Array, u: Array) -> Array:
        u *= factor * np.cos(x)
        return u

    def keeping(factor: float, x: Array, u: Array) -> Array:
        return kept(factor * np.cos(x) * u)

    for rule in (times, keeping):
        assert check_adjoint(np.sin, partial(rule, 1), partial(rule, 1), X).passed
        assert not check_adjoint(np.sin, partial(rule, 5), partial(rule, 7), X, raises=False).passed


def test_whose_line_raised_is_said_once_and_the_exception_stays() -> None:
    def broken(*given: Array) -> Array:
        raise KeyError("gain")

    def shapes(x: Array) -> Array:
        return x @ np.ones(7)

    cases: list[tuple[Any, str, type[Exception]]] = [
        (lambda: check_jvp(broken, jvp, X), r"your f raised KeyError .*\(5, 4\)", KeyError),
        (lambda: check_jvp(shapes, jvp, X), "your f raised ValueError", ValueError),
        (lambda: check_vjp(broken, vjp, X), "your f raised KeyError", KeyError),
        (
            lambda: check_jvp(f, broken, X),
            r"your jvp raised KeyError with arguments of shape \(5, 4\) and \(5, 4\): 'gain' at "
            r".*test_checks.py:\d+$",
            KeyError,
        ),
        (
            lambda: check_vjp(f, broken, X),
            r"your vjp raised KeyError with arguments of shape \(5, 4\) and \(5, 3\)",
            KeyError,
        ),
        (lambda: check_adjoint(f, broken, vjp, X), "your jvp raised KeyError", KeyError),
        (lambda: check_adjoint(f, jvp, broken, X), "your vjp raised KeyError", KeyError),
        (lambda: check_vjp(f, lambda x: x, X), "your vjp raised TypeError", TypeError),
    ]
    for call, message, kind in cases:
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert isinstance(raised.value.__cause__, kind)
    # what is no error of a function goes through as it is
    for passing in (InputError("own"), unittest.SkipTest("own"), KeyboardInterrupt()):
        with pytest.raises(type(passing)) as through:
            check_jvp(f, Mock(side_effect=passing), X)
        assert through.value is passing


@pytest.mark.parametrize(
    ("x", "got"),
    [
        ([np.ones(2), np.ones(3)], "list"),
        ({"a": np.ones(2)}, "dict"),
        (None, "NoneType"),
        (np.array([0.1, None]), "object array"),
        ((np.ones(2), {"a": 1.0}), "float64 array, dict"),
    ],
)
def test_a_point_that_is_none(x: Any, got: str) -> None:
    for check in (check_vjp, check_jvp):
        with pytest.raises(InputError, match=f"or a tuple of them, got {got}$"):
            check(lambda x: x, lambda x, other: other, x)


ROW = np.linspace(0.1, 1.0, 6)
FORMS: dict[str, Any] = {
    "read-only": lambda out: np.broadcast_to(out, out.shape),
    "Fortran order": lambda out: np.array(out, order="F"),
    "float32": lambda out: out.astype(np.float32),
    "a list": lambda out: out.tolist(),
    "a view": lambda out: out.T.T[...],
    "one buffer for all calls": None,
}
POINTS = {
    "C order": ROW.reshape(2, 3), "Fortran order": np.asfortranarray(ROW.reshape(2, 3)),
    "reversed": ROW[::-2], "read-only": np.broadcast_to(ROW[:3], (2, 3)), "0-d": np.array(0.7),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("point", POINTS)
def test_right_rules_pass_and_wrong_ones_fail_in_whatever_arrays(form: str, point: str) -> None:
    x = POINTS[point]
    buffer = np.empty_like(x)

    def rule(factor: float) -> Any:
        def answer(x: Any, other: Any) -> Any:
            if FORMS[form] is None:
                return np.multiply(factor * x, other, out=buffer)
            return FORMS[form](np.asarray(factor * x * other))

        return answer

    for check in (check_vjp, check_jvp):
        check(np.square, rule(2.0), x)
        assert not check(np.square, rule(1.999), x, raises=False).passed


@pytest.mark.parametrize("answer", [None, "a", {"x": X}, [[1.0], [1.0, 2.0]], (X, None)])
def test_a_rule_that_answers_in_no_numbers(answer: Any) -> None:
    kind = type(answer).__name__
    with pytest.raises(InputError, match=f"the jvp must return numbers, .* got {kind}"):
        check_jvp(f, lambda x, u: answer, X)
    with pytest.raises(InputError, match="vjp must be a function of arrays"):
        check_vjp(f, answer, X)
