"""Oracles test their own premise: code that drops imaginary parts, takes none, or is float32."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.arrays import Array
from qgf_ref.checks import DerivativeMismatch, check_adjoint, check_jvp, check_vjp
from qgf_ref.imaginary import casts_ignored, what_drops_imaginary_parts
from qgf_ref.oracles import NotAnalytic, derivatives, remarked, remarks
from qgf_ref.threads import results_of

X = np.array([0.3, -1.1, 2.0])
ONE_OF_64 = np.random.default_rng(3).standard_normal(64)
Case = tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]


def filled(x: Array) -> Array:
    y = np.zeros(x.shape)
    y[:] = x
    return np.sin(y)


def one_of_many(x: Array) -> Array:
    return np.concatenate([np.sin(x[:-1]), np.abs(x[-1:])])


NOT_ANALYTIC: dict[str, tuple[str, Case]] = {
    "np.linalg.norm": (
        "np.linalg.norm",
        (
            lambda x: x / np.linalg.norm(x),
            lambda x, d: d / np.linalg.norm(x) - x * (x @ d) / np.linalg.norm(x) ** 3,
        ),
    ),
    "np.abs": ("np.absolute", (np.abs, lambda x, d: np.sign(x) * d)),
    "vdot": (
        "np.vdot", (lambda x: np.vdot(x, x) * x, lambda x, d: 2 * (x @ d) * x + (x @ x) * d)
    ),
    "conj": ("np.conjugate", (lambda x: x * x.conj(), lambda x, d: 2 * x * d)),
    "np.real": ("np.real", (lambda x: np.real(x) ** 2, lambda x, d: 2 * x * d)),
    ".real in a product": (".real", (lambda x: x * x.real, lambda x, d: 2 * x * d)),
    "astype": ("astype", (lambda x: np.sin(x.astype(float)), lambda x, d: np.cos(x) * d)),
    "asarray": (
        "a cast to real", (lambda x: np.sin(np.asarray(x, float)), lambda x, d: np.cos(x) * d)
    ),
    "an array that is filled": ("a cast to real", (filled, lambda x, d: np.cos(x) * d)),
    "real_if_close": (
        "np.real_if_close", (lambda x: np.real_if_close(x) ** 3, lambda x, d: 3 * x**2 * d)
    ),
    "angles": (
        "complex arguments",
        (lambda x: np.arctan2(x, 1.0), lambda x, d: d / (1 + x * x)),
    ),
    "math": (
        "a cast to real",
        (lambda x: np.array([math.sin(v) for v in x]), lambda x, d: np.cos(x) * d),
    ),
}  # fmt: skip
ANALYTIC: dict[str, Case] = {
    "maximum": (lambda x: np.maximum(x, 0.5) * x, lambda x, d: np.where(x > 0.5, 2 * x, 0.5) * d),
    "where on real parts": (
        lambda x: np.where(x.real > 0, x**2, -x), lambda x, d: np.where(x > 0, 2 * x, -1) * d
    ),
    "comparison": (lambda x: (x > 0) * x, lambda x, d: (x > 0) * d),
    "sorting": (
        lambda x: np.sort(x) * np.arange(3), lambda x, d: d[np.argsort(x)] * np.arange(3)
    ),
    "angles of 10⁴ rad": (lambda x: np.sin(1e4 * x), lambda x, d: 1e4 * np.cos(1e4 * x) * d),
    "a derivative that rounding hides": (
        lambda x: 1 + 1e-20 * np.sin(x), lambda x, d: 1e-20 * np.cos(x) * d
    ),
    "large numbers": (lambda x: (1e6 * x) ** 2, lambda x, d: 2e12 * x * d),
}  # fmt: skip
SINGLE: dict[str, Case] = {
    "at the door": (lambda x: np.sin(np.asarray(x, np.float32)), lambda x, d: np.cos(x) * d),
    "back in float64": (
        lambda x: np.sin(np.asarray(x, np.float32)).astype(float),
        lambda x, d: np.cos(x) * d,
    ),
    "complex64 all the way": (
        lambda x: np.sin(x.astype(np.complex64 if np.iscomplexobj(x) else np.float32)),
        lambda x, d: np.cos(x) * d,
    ),
    "in between": (
        lambda x: np.exp(np.sin(x).astype(np.float32).astype(float)),
        lambda x, d: np.exp(np.sin(x)) * np.cos(x) * d,
    ),
}  # fmt: skip


def transposed(jvp: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """The vjp of a jvp."""
    return lambda x, y_bar: np.stack([jvp(x, e) for e in np.eye(len(x))], axis=1).T @ y_bar


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_what_is_not_analytic_is_said_and_judged_by_differences(name: str) -> None:
    culprit, (f, jvp) = NOT_ANALYTIC[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what NumPy says of complex numbers is not the user's
        for check in (check_jvp(f, jvp, X), check_vjp(f, transposed(jvp), X)):
            assert check.passed and check.oracle == "central_difference"
            assert culprit in check.remark and "judged by differences" in check.remark
            assert check.remark in str(check)
    if culprit not in ("complex arguments", "np.absolute"):
        assert "test_oracles.py:" in check.remark
    with pytest.raises(DerivativeMismatch, match="judged by differences"):
        check_jvp(f, lambda x, d: 0 * d, X)
    with pytest.raises(DerivativeMismatch):
        check_vjp(f, lambda x, y: 1.001 * transposed(jvp)(x, y), X)


def test_a_norm_held_constant_does_not_pass() -> None:
    f, _ = NOT_ANALYTIC["np.linalg.norm"][1]
    n = np.linalg.norm(X)
    assert not check_jvp(f, lambda x, d: d / n, X, raises=False).passed
    assert not check_vjp(f, lambda x, y: y / n, X, raises=False).passed


def test_one_element_of_many() -> None:
    def jvp(x: Array, d: Array) -> Array:
        return np.append(np.cos(x[:-1]) * d[:-1], np.sign(x[-1:]) * d[-1:])

    for oracle in (check_jvp, check_vjp):
        rule = jvp if oracle is check_jvp else transposed(jvp)
        assert oracle(one_of_many, rule, ONE_OF_64).oracle == "central_difference"
    with pytest.raises(DerivativeMismatch):
        check_jvp(one_of_many, lambda x, d: np.append(np.cos(x[:-1]) * d[:-1], 0.0), ONE_OF_64)


@pytest.mark.parametrize("name", ANALYTIC)
def test_what_is_analytic_but_on_a_set_of_no_size_keeps_the_complex_step(name: str) -> None:
    f, jvp = ANALYTIC[name]
    check = check_jvp(f, jvp, X)
    assert check.oracle == "complex_step" and not check.remark
    assert not check_jvp(f, lambda x, d: 1.0001 * jvp(x, d), X, raises=False).passed


@pytest.mark.parametrize("kink", [0.0, 1e-9, 1e-7, 1e-5])
def test_near_a_kink_and_on_it_an_analytic_function_stays_one(kink: float) -> None:
    x = X - X[0] + kink

    def relu(x: Array) -> Array:
        return np.where(x.real > 0, x, 0)

    check = check_jvp(relu, lambda x, d: np.where(x > 0, d, 0), x)
    assert check.oracle == "complex_step" and not check.remark


@pytest.mark.parametrize("oracle", ["complex_step", "central_difference"])
@pytest.mark.parametrize("name", SINGLE)
def test_float32_is_said_and_judged_as_such(name: str, oracle: str) -> None:
    f, jvp = SINGLE[name]
    check = check_jvp(f, jvp, X, oracle=oracle)  # type: ignore[arg-type]
    assert check.passed and "float32" in check.remark
    wrong: list[Callable[[Array, Array], Array]] = [
        lambda x, d: 0 * d, lambda x, d: 1.01 * jvp(x, d)
    ]  # fmt: skip
    for rule in wrong:
        assert not check_jvp(f, rule, X, oracle=oracle, raises=False).passed  # type: ignore[arg-type]


def test_rules_that_answer_in_float32() -> None:
    def single(x: Array, d: Array) -> Array:
        return (np.cos(x) * d).astype(np.float32)

    for check in (check_jvp(np.sin, single, X), check_vjp(np.sin, single, X),
                  check_adjoint(np.sin, single, single, X)):  # fmt: skip
        assert check.passed and "is float32" in check.remark
    hidden = check_jvp(np.sin, lambda x, d: single(x, d).astype(float), X, raises=False)
    assert not hidden.passed and "float32's rounding" in hidden.remark


def test_remarks_are_collected_or_warned_of() -> None:
    result = derivatives("complex_step", np.abs, X, [X])
    with pytest.warns(NotAnalytic, match=r"the length is not analytic \(np.absolute"):
        remarked(result, "the length")
    with remarks() as said:
        remarked(result, "the length")
        remarked(result, "the length")
    assert len(said) == 1 and 0 < said[0].accuracy < 1e-3


def test_a_small_part_that_is_dropped_is_noticed() -> None:
    """Complex step and differences agree to 1e-6, and are of two functions."""
    f, right = (lambda x: 1e8 * x + np.abs(x)), (lambda x, d: (1e8 + np.sign(x)) * d)
    check = check_jvp(f, right, X)
    assert check.oracle == "central_difference" and "np.absolute at" in check.remark


def test_float16_has_steps_of_its_own() -> None:
    def f(x: Array) -> Array:
        return np.tanh(np.asarray(x, np.float16))

    check = check_jvp(f, lambda x, d: (1 - np.tanh(x) ** 2) * d, X)
    assert check.error < 0.02 and "computes in float16" in check.remark
    with pytest.raises(DerivativeMismatch):
        check_jvp(f, lambda x, d: 0.9 * (1 - np.tanh(x) ** 2) * d, X)


def test_what_has_no_derivative_never_passes() -> None:
    calls = iter(range(1, 1000))
    stateful = check_jvp(lambda x: x * (1 + 1e-3 * next(calls)), lambda x, d: d, X, raises=False)
    assert not stateful.passed and "answers the same argument differently" in stateful.remark
    nowhere = check_jvp(lambda x: np.log(x - 9), lambda x, d: d, X, raises=False)
    assert not nowhere.passed and nowhere.remark == "f is not finite at x"
    for answer in (None, "text", [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match=r"f must answer in numbers, an array or a tuple"):
            check_jvp(lambda x, answer=answer: answer, lambda x, d: d, X)


def test_integers_do_not_wrap_around() -> None:
    def f(x: Array) -> Array:
        return (x > 0.2).astype(np.uint8)

    assert check_jvp(f, lambda x, d: 0 * d, X).error == 0


def test_oracles_in_several_threads_leave_filters_and_numpy_as_they_were() -> None:
    """They are the process's, and each oracle asks with others: what it finds must not change."""
    x, e = np.linspace(0.1, 1, 4), np.ones(4)

    def cast(v: Array) -> Array:
        time.sleep(0.001)  # so that the threads meet
        return np.sin(v) + v.astype(float) ** 2

    def remark(f: Callable[[Array], Array]) -> str:
        return derivatives("complex_step", f, x, [e]).remark

    before, asarray = list(warnings.filters), np.asarray
    alone = [remark(f) for f in (np.sin, cast)]
    together = results_of([partial(remark, f) for f in (np.sin, cast) * 4], 4)
    assert together == alone * 4 and "astype(float64)" in alone[1] and not alone[0]
    assert warnings.filters == before and np.asarray is asarray


def test_only_casts_of_its_own_thread_are_named() -> None:
    """Another oracle's thread casts, with its filter out of force, while this one watches."""
    z = np.ones(2) + 0j

    def cast_elsewhere(v: Array) -> Array:
        other = Thread(target=lambda: z.astype(float))
        other.start()
        other.join()
        return np.sin(v)

    with casts_ignored():
        assert what_drops_imaginary_parts(cast_elsewhere, z) == ""
        found = what_drops_imaginary_parts(lambda v: v.astype(float), z)
    assert re.fullmatch(r"astype\(float64\) at test_oracles.py:\d+", found)


def test_what_others_warn_of_meanwhile_is_shown() -> None:
    def warn(v: Array) -> Array:
        warnings.warn("its own", RuntimeWarning, stacklevel=1)
        other = Thread(target=lambda: warnings.warn("another's", RuntimeWarning, stacklevel=1))
        other.start()
        other.join()
        return v

    with pytest.warns(RuntimeWarning) as shown:
        what_drops_imaginary_parts(warn, np.ones(2) + 0j)
    assert [str(warning.message) for warning in shown] == ["another's"]


def test_differences_from_one_call_are_those_of_many() -> None:
    x, along = np.linspace(0.1, 1, 4), list(np.eye(4))
    asked: list[int] = []

    def together(points: list[Any]) -> list[Array]:
        asked.append(len(points))
        return list(np.sin(np.stack(points)))

    each = derivatives("central_difference", np.sin, x, along)
    once = derivatives("central_difference", np.sin, x, along, together)
    assert np.array_equal(each.values, once.values) and asked == [8]
