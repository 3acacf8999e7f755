"""Elementwise activations and their derivatives.

An activation acts on each element alone, so its Jacobian is diagonal, and jvp and vjp are the
same product:  y_dot = f′(x)·x_dot,  x_bar = f′(x)·y_bar. Along (x_dot, y_bar_dot) the latter
changes by  x_bar_dot = f″(x)·x_dot·y_bar + f′(x)·y_bar_dot.

All are analytic except on their kink, where the branch is chosen by the real part (complex step
then differentiates the branch that the real computation takes). Stated conventions: relu′(0) = 0,
elu′(0) = 1; relu″ = 0 everywhere, elu″(0) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


class ActivationCache(NamedTuple):
    """What `activation` saves: the name, x, and the inner function value that f′ reuses."""

    name: str
    x: Array
    inner: Array


def _tanh_at(x: Array) -> Array:
    """tanh x. Of complex x with t = tanh Re x and u = tan Im x: (t + iu)/(1 + itu), by functions
    of real numbers, which NumPy has faster.
    """
    if not np.iscomplexobj(x):
        return np.tanh(x)
    t, u = np.tanh(x.real), np.tan(x.imag)
    size, y = 1 + (t * u) ** 2, np.empty_like(x)
    y.real[...], y.imag[...] = t * (1 + u * u) / size, u * (1 - t * t) / size
    return y


def sigmoid(x: Array) -> Array:
    """1/(1 + e^−x), (…); never overflows."""
    positive = x.real > 0
    e = np.exp(np.where(positive, -x, x))  # |e| ≤ 1: never overflows
    return np.where(positive, 1, e) / (1 + e)


def softplus(x: Array) -> Array:
    """log(1 + eˣ) = −log σ(−x), (…); its relative error is rounding's at every x."""
    positive = x.real > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))


def _gelu(x: Array) -> tuple[Array, Array]:
    inner = _tanh_at(SQRT_2_OVER_PI * (x + GELU_CUBIC * (x * x * x)))
    return 0.5 * x * (1 + inner), inner


def _gelu_slope(x: Array, inner: Array) -> Array:
    du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * (x * x))
    return 0.5 * (1 + inner) + 0.5 * x * (1 - inner * inner) * du


def _gelu_curvature(x: Array, inner: Array) -> Array:
    du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * (x * x))
    ddu = 6 * SQRT_2_OVER_PI * GELU_CUBIC * x
    sech2 = 1 - inner * inner
    # the factor that vanishes first: far out the others overflow
    return sech2 * du * (1 - x * inner * du) + 0.5 * x * (sech2 * ddu)


@lru_cache(maxsize=1)
def _erf() -> Callable[[Array], Array]:
    """SciPy's erf, imported here because it is most of the time of `import qgf_ref`; or ours."""
    try:
        from scipy.special import erf
    except ModuleNotFoundError:
        return erf_series
    chosen: Callable[[Array], Array] = erf
    return chosen


def erf_series(z: Array) -> Array:
    """erf(z) = 2/√π e^(−z²) Σ 2ⁿ z^(2n+1)/(2n+1)!! (DLMF 7.6.2), near the real axis or on it.

    For installations without SciPy. No terms cancel on the real axis; beyond ±6 erf is ±1.
    """
    double = z.astype(np.complex128 if np.iscomplexobj(z) else np.float64)
    near = np.abs(double.real) < 6
    w = np.where(near, double, 0)
    total = term = w
    for n in range(1, 120):
        term = term * (2 * w * w / (2 * n + 1))
        total = total + term
    inside = 2 / math.sqrt(math.pi) * np.exp(-w * w) * total
    return np.asarray(np.where(near, inside, np.sign(double.real)), z.dtype)


def _gelu_erf(x: Array) -> tuple[Array, Array]:
    inner = _erf()(x * math.sqrt(0.5))
    return 0.5 * x * (1 + inner), inner


def _gelu_erf_slope(x: Array, inner: Array) -> Array:
    return 0.5 * (1 + inner) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_erf_curvature(x: Array, inner: Array) -> Array:
    bell = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 2 * bell - x * (x * bell)


QUICK_GELU = 1.702


def _gelu_quick(x: Array) -> tuple[Array, Array]:
    inner = sigmoid(QUICK_GELU * x)
    return x * inner, inner


def _gelu_quick_slope(x: Array, inner: Array) -> Array:
    return inner * (1 + QUICK_GELU * x * (1 - inner))


def _gelu_quick_curvature(x: Array, inner: Array) -> Array:
    return QUICK_GELU * inner * (1 - inner) * (2 + QUICK_GELU * x * (1 - 2 * inner))


def _relu(x: Array) -> tuple[Array, Array]:
    return np.where(x.real > 0, x, 0), x


def _relu_slope(x: Array, inner: Array) -> Array:
    return (x.real > 0).astype(x.real.dtype)


def _relu_curvature(x: Array, inner: Array) -> Array:
    return np.zeros_like(x.real)


def _silu(x: Array) -> tuple[Array, Array]:
    inner = sigmoid(x)
    return x * inner, inner


def _silu_slope(x: Array, inner: Array) -> Array:
    return inner * (1 + x * (1 - inner))


def _silu_curvature(x: Array, inner: Array) -> Array:
    return inner * (1 - inner) * (2 + x * (1 - 2 * inner))


def _tanh(x: Array) -> tuple[Array, Array]:
    inner = _tanh_at(x)
    return inner, inner


def _tanh_slope(x: Array, inner: Array) -> Array:
    return 1 - inner * inner


def _tanh_curvature(x: Array, inner: Array) -> Array:
    return -2 * inner * (1 - inner * inner)


def _elu(x: Array) -> tuple[Array, Array]:
    positive = x.real > 0
    inner = np.expm1(np.where(positive, 0, x))
    return np.where(positive, x, inner), inner


def _elu_slope(x: Array, inner: Array) -> Array:
    return np.where(x.real > 0, 1, inner + 1)


def _elu_curvature(x: Array, inner: Array) -> Array:
    return np.where(x.real > 0, 0, inner + 1)


def _mish(x: Array) -> tuple[Array, Array]:
    inner = _tanh_at(softplus(x))
    return x * inner, inner


def _mish_slope(x: Array, inner: Array) -> Array:
    return inner + x * (1 - inner * inner) * sigmoid(x)


def _mish_curvature(x: Array, inner: Array) -> Array:
    s = sigmoid(x)
    return (1 - inner * inner) * s * (2 + x * (1 - s - 2 * inner * s))


class _Rule(NamedTuple):
    """f with the inner value that is saved; f′ and f″ from x and that value."""

    value: Callable[[Array], tuple[Array, Array]]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array, Array], Array]


_RULES = {
    "gelu": _Rule(_gelu, _gelu_slope, _gelu_curvature),
    "gelu_erf": _Rule(_gelu_erf, _gelu_erf_slope, _gelu_erf_curvature),
    "gelu_quick": _Rule(_gelu_quick, _gelu_quick_slope, _gelu_quick_curvature),
    "relu": _Rule(_relu, _relu_slope, _relu_curvature),
    "silu": _Rule(_silu, _silu_slope, _silu_curvature),
    "tanh": _Rule(_tanh, _tanh_slope, _tanh_curvature),
    "elu": _Rule(_elu, _elu_slope, _elu_curvature),
    "mish": _Rule(_mish, _mish_slope, _mish_curvature),
}

ACTIVATIONS = tuple(_RULES)
"""Names that `activation` knows. `gelu` is the tanh approximation (flax's default)."""


def require_activation(name: str) -> None:
    """Raise InputError, listing the valid names, unless `name` is an activation."""
    if name not in _RULES:
        raise unknown_name("activation", name, ACTIVATIONS)


def activation(x: Array, name: str) -> tuple[Array, ActivationCache]:
    """y = f(x), elementwise.

    gelu      ½x(1 + tanh(√(2/π)(x + 0.044715x³)))      gelu_erf  ½x(1 + erf(x/√2))
    relu      max(x, 0)                                 silu      x·σ(x)
    elu       x if x > 0 else eˣ − 1                    mish      x·tanh(log(1 + eˣ))
    tanh      tanh x                                    gelu_quick  x·σ(1.702x)

    x (any shape). Raises InputError on an unknown name: the official code silently falls back to
    gelu (official.md, D16). Source: jax.nn.
    """
    require_activation(name)
    y, inner = _RULES[name].value(x)
    return y, ActivationCache(name, x, inner)


def activation_jvp(x_dot: Array, cache: ActivationCache) -> Array:
    """y_dot = f′(x)·x_dot."""
    return x_dot * _RULES[cache.name].slope(cache.x, cache.inner)


def activation_vjp(y_bar: Array, cache: ActivationCache) -> Array:
    """x_bar = f′(x)·y_bar."""
    return y_bar * _RULES[cache.name].slope(cache.x, cache.inner)


def activation_vjp_jvp(
    x_dot: Array, y_bar: Array, y_bar_dot: Array, cache: ActivationCache
) -> Array:
    """x_bar_dot = f″(x)·x_dot·y_bar + f′(x)·y_bar_dot: the vjp's derivative along both.

    f″ of silu, with s = σ(x): s(1 − s)(2 + x(1 − 2s)); gelu_quick is silu's with 1.702x for x,
    times 1.702. tanh, with T = tanh x: −2T(1 − T²). gelu, with T = tanh u:
    (1 − T²)(u′(1 − xTu′) + ½xu″). gelu_erf, with φ the normal density: (2 − x²)φ(x). mish, with
    T = tanh(log(1 + eˣ)): (1 − T²)s(2 + x(1 − s − 2Ts)). elu: eˣ below 0, else 0. relu: 0.
    """
    rule = _RULES[cache.name]
    bent = rule.curvature(cache.x, cache.inner) * x_dot * y_bar
    return bent + rule.slope(cache.x, cache.inner) * y_bar_dot
