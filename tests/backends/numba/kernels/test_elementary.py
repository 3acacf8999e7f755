"""Compiled eˣ, 2ˣ, eˣ − 1, 1/x and the normal tail against mpmath, in units of rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import exponential as elementary
from qgf_ref.backends.numba.kernels.cache import compiled

FUNCTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "exp": (elementary.exp, mpmath.exp),
    "exp2": (elementary.exp2, lambda x: mpmath.mpf(2) ** x),
    "expm1": (elementary.expm1_and_exp, mpmath.expm1),
    "reciprocal": (elementary.reciprocal, lambda x: 1 / x),
    "normal_tail": (elementary.normal_tail, lambda x: mpmath.erfc(x / mpmath.sqrt(2)) / 2),
}
MEASURED = {
    # function: (float32, float64), largest relative error in units of eps, measured; reciprocal
    # without AVX-512 starts from a coarser estimate, hence the factor 2 below
    "exp": (0.6, 0.6),
    "exp2": (0.6, 0.5),
    "expm1": (0.6, 0.9),
    "reciprocal": (0.7, 0.5),
    # e^{−x²/2} takes over the rounding of x²/2, up to 18 here: see test_rows for what
    # that means for gelu_erf
    "normal_tail": (7.7, 8.3),
}


def looped(name: str) -> Any:
    function = FUNCTIONS[name][0]
    pair = name in ("expm1", "normal_tail")

    @compiled
    def each(x, y):  # type: ignore[no-untyped-def]
        for j in range(x.size):
            if pair:
                y[j], _ = function(x[j])
            else:
                y[j] = function(x[j])

    return each


def arguments(name: str, dtype: str) -> Array:
    wide = {"exp": 87.0, "exp2": 125.0, "expm1": 60.0, "reciprocal": 1e6, "normal_tail": 6.0}[name]
    low = 0.0 if name == "normal_tail" else 1e-6 if name == "reciprocal" else -wide
    small = np.array([1e-30, 1e-10, 1e-4, 0.01, 0.3, 1.0])
    small = small[small >= low]
    mirrored = -small if low < 0 else small
    return np.concatenate([np.linspace(low, wide, 989), small, mirrored]).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(name: str, dtype: str) -> None:
    x = arguments(name, dtype)
    y = np.empty_like(x)
    looped(name)(x, y)
    with mpmath.workdps(40):
        exact = [FUNCTIONS[name][1](mpmath.mpf(float(v))) for v in x]
        errors = [
            abs(float(mpmath.mpf(float(a)) / b - 1)) if b else abs(float(a))
            for a, b in zip(y, exact, strict=True)
        ]
    eps = np.finfo(dtype).eps
    worst = max(errors) / eps
    assert worst < 2 * MEASURED[name][dtype == "float64"], f"{worst:.2f} eps"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_the_range(dtype: str) -> None:
    """Clamped to normal numbers; NaN stays NaN."""
    x = np.array([-np.inf, -1e30, 1e30, np.inf, np.nan], dtype)
    y = np.empty_like(x)
    for name in ("exp", "exp2"):
        looped(name)(x, y)
        assert (y[:2] > 0).all() and (y[:2] < 1e-37).all(), name
        assert np.isfinite(y[2:4]).all() and (y[2:4] > 1e37).all(), name
        assert np.isnan(y[4]), name
    looped("expm1")(x[:2], y[:2])
    np.testing.assert_array_equal(y[:2], -1)
    looped("normal_tail")(np.abs(x[[1, 2, 4]]), y[:3])
    assert (np.abs(y[:2]) < 1e-36).all() and np.isnan(y[2])
