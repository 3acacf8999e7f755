"""What happens to one row between two matrix products: bias, LayerNorm, activation; and back.

Scalar loops over contiguous rows, which LLVM vectorises. Every activation is one exponential and
one reciprocal (`qgf_ref.backends.numba.kernels.exponential`): gelu's ½x(1 + tanh u) is x·σ(2u).
`tests/kernels/test_rows.py` measures the error of each in ulps.
"""

from __future__ import annotations

import math

from qgf_ref.backends.numba.kernels.cache import inner, summing
from qgf_ref.backends.numba.kernels.exponential import (
    constant,
    exp,
    exp2,
    expm1_and_exp,
    inline,
    normal_tail,
    reciprocal,
)
from qgf_ref.backends.numba.kernels.simd import like
from qgf_ref.ops.activations import ACTIVATIONS, GELU_CUBIC, QUICK_GELU, SQRT_2_OVER_PI

CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
"""Activation name → its number in compiled code."""
GELU, GELU_ERF, GELU_QUICK, RELU, SILU, TANH, ELU, MISH = (
    CODES[name]
    for name in ("gelu", "gelu_erf", "gelu_quick", "relu", "silu", "tanh", "elu", "mish")
)
TWO_SQRT_2_OVER_PI = 2 * SQRT_2_OVER_PI
GELU_CUBIC_LOG2 = TWO_SQRT_2_OVER_PI * GELU_CUBIC / math.log(2)
GELU_BEND = 3 * GELU_CUBIC * TWO_SQRT_2_OVER_PI
NORMAL_PEAK = 1 / math.sqrt(2 * math.pi)
LOG2_E = 1 / math.log(2)
_far = constant(20.0, 40.0)


@inline
def _gelu(x):
    # the sigmoid's argument is formed for 2ˣ: no error beyond its own rounding, and less work.
    # Beyond ±30 the slope is 0 or 1; x³ times the smallest 2ˣ would not be
    one, end = like(1, x), like(30, x)
    near = -end if x < -end else x
    near = end if near > end else near
    square = near * near
    linear, cubic = like(-TWO_SQRT_2_OVER_PI * LOG2_E, x), like(-GELU_CUBIC_LOG2, x)
    e = exp2(near * (linear + cubic * square))
    s = reciprocal(one + e)
    bend = like(TWO_SQRT_2_OVER_PI, x) + like(GELU_BEND, x) * square
    return x * s, s + near * s * (e * s) * bend


@inline
def _gelu_quick(x):
    e = exp2(like(-QUICK_GELU * LOG2_E, x) * x)
    s = reciprocal(like(1, x) + e)
    return x * s, s + like(QUICK_GELU, x) * x * (e * s) * s


@inline
def _gelu_erf(x):
    tail, bell = normal_tail(abs(x))
    beyond = like(1, x) - tail  # before the choice, else LLVM makes a branch of it
    below = beyond if x > like(0, x) else tail
    return x * below, below + x * bell * like(NORMAL_PEAK, x)


@inline
def _relu(x):
    zero, one = like(0, x), like(1, x)
    # a NaN goes through, as in the reference's comparison with the roles exchanged
    return (zero if x <= zero else x), (one if x > zero else zero)


@inline
def _silu(x):
    e = exp(-x)
    s = reciprocal(like(1, x) + e)
    return x * s, s + x * (e * s) * s


@inline
def _tanh(x):
    # tanh|x| = −n/(n + 2), n = exp(−2|x|) − 1: exact to rounding near 0, and nothing overflows
    one, two = like(1, x), like(2, x)
    n, _ = expm1_and_exp(-two * abs(x))
    y = n * reciprocal(two + n)
    y = y if x < like(0, x) else -y
    return y, one - y * y


@inline
def _elu(x):
    zero, one = like(0, x), like(1, x)
    below, e = expm1_and_exp(x)
    return (x if x > zero else below), (one if x > zero else e)


@inline
def _mish(x):
    # t = tanh(log(1 + e)) = n/(n + 2), n = e(e + 2), and 1 − t = 2/(n + 2): one division for both
    # and for the sigmoid. Far out t is 1 to rounding
    one, two, far = like(1, x), like(2, x), _far(x)
    near = far if x > far else x
    e = exp(near)
    n = e * (e + two)
    r = reciprocal((n + two) * (one + e))
    above = (one + e) * r
    t = n * above
    return x * t, t + near * (two * above) * (one + t) * (e * (n + two) * r)


@inner
def activate(h, scale, code, y, slope):
    """y = f(h) and slope = f′(h)·scale, elementwise. All are rows (F,) that do not overlap."""
    if code == GELU:
        for j in range(h.size):
            y[j], s = _gelu(h[j])
            slope[j] = s * scale[j]
    elif code == GELU_ERF:
        for j in range(h.size):
            y[j], s = _gelu_erf(h[j])
            slope[j] = s * scale[j]
    elif code == GELU_QUICK:
        for j in range(h.size):
            y[j], s = _gelu_quick(h[j])
            slope[j] = s * scale[j]
    elif code == RELU:
        for j in range(h.size):
            y[j], s = _relu(h[j])
            slope[j] = s * scale[j]
    elif code == SILU:
        for j in range(h.size):
            y[j], s = _silu(h[j])
            slope[j] = s * scale[j]
    elif code == TANH:
        for j in range(h.size):
            y[j], s = _tanh(h[j])
            slope[j] = s * scale[j]
    elif code == ELU:
        for j in range(h.size):
            y[j], s = _elu(h[j])
            slope[j] = s * scale[j]
    else:
        for j in range(h.size):
            y[j], s = _mish(h[j])
            slope[j] = s * scale[j]


@inline
def _swish_curve(x, p, p_dot, p_bent):
    # (xσ(p))″, p a function of x with the derivatives p_dot and p_bent
    one, two = like(1, x), like(2, x)
    s = reciprocal(one + exp(-p))
    slope = s * (one - s)
    return slope * (two * p_dot + x * ((one - two * s) * p_dot * p_dot + p_bent))


@inner
def curve(h, code, out):
    """out = f″(h), elementwise: see `qgf_ref.ops.activations.activation_vjp_jvp`."""
    zero, one, two = like(0, h[0]), like(1, h[0]), like(2, h[0])
    for j in range(h.size):
        x = h[j]
        if code == GELU:
            c, k = like(TWO_SQRT_2_OVER_PI, x), like(GELU_CUBIC, x)
            # far out the curvature is 0, and the cube of x would overflow
            near = min(max(x, like(-30, x)), like(30, x))
            square = near * near
            p, p_dot = c * near * (one + k * square), c * (one + like(3, x) * k * square)
            out[j] = _swish_curve(near, p, p_dot, like(6, x) * c * k * near)
        elif code == GELU_QUICK:
            out[j] = _swish_curve(x, like(QUICK_GELU, x) * x, like(QUICK_GELU, x), zero)
        elif code == SILU:
            out[j] = _swish_curve(x, x, one, zero)
        elif code == GELU_ERF:
            out[j] = (two - x * x) * like(NORMAL_PEAK, x) * exp(like(-0.5, x) * x * x)
        elif code == RELU:
            out[j] = zero
        elif code == TANH:
            y, slope = _tanh(x)
            out[j] = -two * y * slope
        elif code == ELU:
            out[j] = zero if x > zero else exp(x)
        else:
            near = min(x, _far(x))
            e = exp(near)
            n = e * (e + two)
            t, s = n / (n + two), e / (one + e)
            rest = like(4, x) * (n + one) / ((n + two) * (n + two))
            out[j] = rest * s * (two + near * (one - s - two * s * t))


@summing
def _sums(z):
    total = square = like(0, z[0])
    for j in range(z.size):
        total += z[j]
        square += z[j] * z[j]
    return total, square


@summing
def _spread(z, mean):
    square = like(0, mean)
    for j in range(z.size):
        square += (z[j] - mean) * (z[j] - mean)
    return square


@inner
def normalise(z, scale, offset, eps, fast, x_hat, h):
    """h = γ·x̂ + β, x̂ = (z − mean)·rstd; returns rstd. Rows (F,); `fast` as in ops.layer_norm."""
    width = like(z.size, z[0])
    total, square = _sums(z)
    mean = total / width
    variance = square / width - mean * mean if fast else _spread(z, mean) / width
    variance = variance if variance > like(0, mean) else like(0, mean)
    rstd = like(1, mean) / like(math.sqrt(variance + like(eps, mean)), mean)
    for j in range(z.size):
        t = (z[j] - mean) * rstd
        x_hat[j] = t
        h[j] = t * scale[j] + offset[j]
    return rstd


@summing
def projections(u, x_hat):
    """Σu and Σu·x̂."""
    total = along = like(0, u[0])
    for j in range(u.size):
        total += u[j]
        along += u[j] * x_hat[j]
    return total, along


@inner
def normalised_jacobian(u, x_hat, rstd, out):
    """out = rstd·(u − mean u − x̂·mean(x̂·u)): ∂x̂/∂x times u, rows (F,) that do not overlap."""
    width = like(u.size, u[0])
    total, along = projections(u, x_hat)
    mean, slope = total / width, along / width
    for j in range(u.size):
        out[j] = rstd * (u[j] - mean - x_hat[j] * slope)
