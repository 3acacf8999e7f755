"""Compiled learning primitives against the reference in higher precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.fused import numba_kernels
from qgf_ref.ops import learning

B, D = 37, 5
LIMITS = {
    # largest error in eps of a result's largest element, measured at most half of these
    "path_point": 2, "squared_error": 4, "expectile_error": 4, "adam_step": 4,
    "moving_average": 2, "sum_of_squares": 4, "all_scaled": 1,
}  # fmt: skip


def arguments(name: str, dtype: str) -> tuple[Any, ...]:
    rng = np.random.default_rng(2)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    valid = (rng.uniform(size=B) < 0.8).astype(dtype)
    return {
        "path_point": (draw(B, D), draw(B, D), rng.uniform(size=B).astype(dtype)),
        "squared_error": (draw(2, B), draw(B), valid),
        "expectile_error": (draw(B), draw(B), valid, 0.9),
        "adam_step": (draw(2, B, D), draw(2, B, D), draw(2, B, D), draw(2, B, D) ** 2, 3, 1e-2),
        "moving_average": (draw(B, D), draw(B, D), 0.005),
        "sum_of_squares": (draw(B, D), draw(3), draw(2, 4)),
        "all_scaled": (0.3, draw(B, D), draw(3)),
    }[name]


def finer(a: Any) -> Any:
    if not isinstance(a, np.ndarray):
        return a
    return a.astype(np.float64 if a.dtype == np.float32 else np.longdouble)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LIMITS)
def test_error(name: str, dtype: str) -> None:
    args = arguments(name, dtype)
    before = [np.copy(a) for a in args if isinstance(a, np.ndarray)]
    primitive = getattr(learning, name)
    found, expected = numba_kernels(primitive, *args), primitive(*map(finer, args))
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    eps = float(np.finfo(dtype).eps)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape
        assert ours.ndim == 0 or ours.dtype == dtype
        error = float(np.abs(ours - theirs).max()) / float(np.abs(theirs).max()) / eps
        assert error < LIMITS[name], f"{error:.2f} eps"
    for a, b in zip((a for a in args if isinstance(a, np.ndarray)), before, strict=True):
        np.testing.assert_array_equal(a, b)  # fresh arrays come out, none is changed


def test_the_whole_flow_matching_error_has_one_weight() -> None:
    y, target = np.ones((B, D)), np.zeros((B, D))
    loss, y_bar = numba_kernels(learning.squared_error, y, target, 3.0)
    assert loss == 3
    np.testing.assert_allclose(y_bar, 6 / y.size)


def test_expectile_at_equality_and_with_nan() -> None:
    q = np.array([1.0, 2.0, 0.0])
    v = np.array([1.0, 1.0, 1.0])
    for run in (numba_kernels, lambda f, *a: f(*a)):
        loss, v_bar = run(learning.expectile_error, q, v, np.ones(3), 0.9)
        np.testing.assert_allclose(v_bar, [0, -0.6, 0.2 / 3], atol=1e-16)
        np.testing.assert_allclose(loss, (0.9 + 0.1) / 3)
        assert np.isnan(run(learning.expectile_error, q * np.nan, v, np.ones(3), 0.9)[0])


@pytest.mark.parametrize("name", sorted({*LIMITS} - {"sum_of_squares", "all_scaled"}))
def test_complex_numbers_and_mixed_dtypes_are_left_to_numpy(name: str) -> None:
    primitive = getattr(learning, name)
    first, *rest = arguments(name, "float64")
    for other in (first + 1e-20j, first.astype(np.float32)):
        found, expected = numba_kernels(primitive, other, *rest), primitive(other, *rest)
        if not isinstance(found, tuple):
            found, expected = (found,), (expected,)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_lists_of_arrays_that_are_left_to_numpy() -> None:
    one, strided = np.ones((4, 3), np.float32), np.arange(24.0, dtype=np.float32).reshape(4, 6)
    cases: tuple[tuple[Array, ...], ...] = (
        (one, one.astype(np.float64)), (one, strided[:, ::2]), (),
    )  # fmt: skip
    for arrays in cases:
        found = numba_kernels(learning.sum_of_squares, *arrays)
        assert found == learning.sum_of_squares(*arrays)
        scaled = numba_kernels(learning.all_scaled, 0.5, *arrays)
        for a, b in zip(scaled, arrays, strict=True):
            np.testing.assert_array_equal(a, b * 0.5)
            assert a.dtype == b.dtype


def test_other_primitives_run_as_they_are() -> None:
    assert numba_kernels(np.add, 1, 2) == 3
    y, cache = numba_kernels(learning.path_point, np.ones((0, 2)), np.ones((0, 2)), np.ones(0))
    assert y.shape == cache.shape == (0, 2)
