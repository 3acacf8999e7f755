"""Compiled activations and LayerNorm of a row against the reference in higher precision."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import rows
from qgf_ref.backends.numba.kernels.cache import compiled
from qgf_ref.ops.activations import ACTIVATIONS, activation, activation_jvp
from qgf_ref.ops.layer_norm import Variance, layer_norm, layer_norm_jvp

VALUE = {
    # largest error of f in units of eps·max(|f|, eps·|x|), |x| ≤ 20, measured: (float32, float64).
    # Where the argument of an exponential is itself rounded (gelu, gelu_quick, gelu_erf), its error
    # grows with the argument, up to −ln eps where the value still counts
    "gelu": (11.3, 34.4), "gelu_erf": (5.0, 14.1), "gelu_quick": (7.3, 12.7), "relu": (0, 0),
    "silu": (1.1, 1.3), "tanh": (1.4, 1.4), "elu": (0.7, 0.9), "mish": (2.4, 2.3),
}  # fmt: skip
SLOPE = {
    # largest error of f′ in units of eps (f′ is at most 1.13), measured
    "gelu": (1.3, 1.3), "gelu_erf": (1.3, 1.4), "gelu_quick": (1.2, 1.2), "relu": (0, 0),
    "silu": (1.2, 1.4), "tanh": (2.6, 2.8), "elu": (0.4, 0.4), "mish": (1.6, 2.0),
}  # fmt: skip


@compiled
def activated(x, scale, code, y, slope):  # type: ignore[no-untyped-def]
    rows.activate(x, scale, code, y, slope)


@compiled
def normalised(z, scale, offset, eps, fast, x_hat, h):  # type: ignore[no-untyped-def]
    return rows.normalise(z, scale, offset, eps, fast, x_hat, h)


@compiled
def product(u, x_hat, rstd, out):  # type: ignore[no-untyped-def]
    rows.normalised_jacobian(u, x_hat, rstd, out)


def finer(x: Array) -> Array:
    return x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)


def arguments(dtype: str) -> Array:
    near = 10.0 ** np.arange(-30, 0)
    return np.concatenate([np.linspace(-20, 20, 4001), near, -near]).astype(dtype)


def exact(name: str, x: Array) -> tuple[Array, Array]:
    """f and f′ in higher precision, by formulas without cancellation far to the left."""
    X = finer(x)
    if name == "gelu_erf" and x.dtype == np.float64:
        pytest.importorskip("mpmath")
        import mpmath

        with mpmath.workdps(30):
            args = [mpmath.mpf(float(v)) for v in x]
            below = [mpmath.ncdf(v) for v in args]
            y = np.array([v * b for v, b in zip(args, below, strict=True)], dtype=object)
            s = np.array([b + v * mpmath.npdf(v) for v, b in zip(args, below, strict=True)])
            return y, s
    with np.errstate(over="ignore", under="ignore"):
        if name == "gelu":
            u = np.sqrt(2 / np.pi, dtype=X.dtype) if X.dtype == np.float64 else None
            u = np.sqrt(X.dtype.type(2) / (4 * np.arctan(X.dtype.type(1)))) if u is None else u
            c = X.dtype.type(0.044715)
            e = np.exp(-2 * u * (X + c * X**3))
            s = 1 / (1 + e)
            return X * s, s + X * np.where(e < 1e300, e * s * s, 0) * 2 * u * (1 + 3 * c * X * X)
        if name in ("gelu_quick", "silu"):
            k = X.dtype.type(1.702 if name == "gelu_quick" else 1)
            e = np.exp(-k * X)
            s = 1 / (1 + e)
            return X * s, s + k * X * e * s * s
        if name == "gelu_erf":
            from scipy.special import ndtr

            return X * ndtr(X), ndtr(X) + X * np.exp(-X * X / 2) / np.sqrt(2 * np.pi)
        y, cache = activation(X, name)
        return y, activation_jvp(np.ones_like(X), cache)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str, dtype: str) -> None:
    x = arguments(dtype)
    y, slope = np.empty_like(x), np.empty_like(x)
    activated(x, np.ones_like(x), rows.CODES[name], y, slope)
    value, derivative = exact(name, x)
    eps = float(np.finfo(dtype).eps)
    size = np.maximum(np.abs(value).astype(float), eps * np.abs(x.astype(float)))
    error = np.abs(y - value).astype(float)[x != 0] / size[x != 0] / eps
    double = dtype == "float64"
    assert error.max() <= 1.5 * VALUE[name][double], f"{error.max():.2f} at {x[error.argmax()]}"
    error = np.abs(slope - derivative).astype(float) / eps
    assert error.max() <= 1.5 * SLOPE[name][double], f"{error.max():.2f} at {x[error.argmax()]}"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_carries_the_scale_and_the_kinks(name: str) -> None:
    x = np.array([0.0, -0.0, 0.7, -0.7])
    y, slope, scaled = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    activated(x, np.ones_like(x), rows.CODES[name], y, slope)
    scale = np.array([2.0, -3.0, 0.5, 1.5])
    activated(x, scale, rows.CODES[name], y, scaled)
    np.testing.assert_array_equal(scaled, slope * scale)
    _, cache = activation(x, name)
    np.testing.assert_allclose(slope, activation_jvp(np.ones_like(x), cache), rtol=4e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_goes_through(name: str) -> None:
    x = np.full(40, np.nan, np.float32)
    y, slope = np.zeros_like(x), np.zeros_like(x)
    activated(x, np.ones_like(x), rows.CODES[name], y, slope)
    assert np.isnan(y).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variance", ["fast", "two_pass"])
@pytest.mark.parametrize("width", [1, 7, 256])
def test_layer_norm(width: int, variance: Variance, dtype: str) -> None:
    """Errors in units of eps of the largest element; measured 2.6, mean as large as the spread."""
    rng = np.random.default_rng(width)
    z, scale, offset, u = (rng.standard_normal(width).astype(dtype) for _ in range(4))
    z += 1
    x_hat, h, out = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    rstd = normalised(z, scale, offset, 1e-3, variance == "fast", x_hat, h)
    product(u, x_hat, rstd, out)
    y, cache = layer_norm(finer(z)[None], finer(scale), finer(offset), 1e-3, variance)
    jacobian = layer_norm_jvp(finer(u)[None], cache)[0] / finer(scale)
    eps = np.finfo(dtype).eps
    for ours, theirs in ((h, y[0]), (x_hat, cache.x_hat[0]), (out, jacobian)):
        # of one column, the variance is 0 and everything the difference of equal numbers
        size = max(1.0, float(np.abs(theirs).max())) * float(rstd if width == 1 else 1)
        assert float(np.abs(ours - theirs).max()) / size / eps < 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"tanh"}))
def test_far_out_the_slope_is_that_of_the_asymptote(name: str, dtype: str) -> None:
    """0 or 1: powers of x do not outgrow an exponential that cannot get smaller."""
    size = 10.0 ** np.arange(2, 25, dtype=dtype)
    x = np.concatenate([-size, size]).astype(dtype)
    y, slope = np.empty_like(x), np.empty_like(x)
    activated(x, np.ones_like(x), rows.CODES[name], y, slope)
    np.testing.assert_allclose(slope, x > 0, rtol=0, atol=4 * np.finfo(dtype).eps)
    left = -1.0 if name == "elu" else 0.0
    np.testing.assert_allclose(y, np.where(x > 0, x, left), rtol=4 * np.finfo(dtype).eps, atol=1e-5)
