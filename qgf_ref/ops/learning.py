"""What training and sampling do between networks, as primitives: elementwise, on whole arrays.

`qgf_ref.losses` and `qgf_ref.flow` write the algorithms; here is what an accelerated backend may
run in one pass over memory.
"""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def path_point(x0: Array, x1: Array, t: Array) -> tuple[Array, Array]:
    """(x_t, dx_t/dt) = ((1 − t)x0 + t x1, x1 − x0). x0, x1 (B, D), t (B,)."""
    t = t[:, None]
    return (1 - t) * x0 + t * x1, x1 - x0


def squared_error(y: Array, target: Array, weight: Array | float = 1) -> tuple[float, Array]:
    """L = mean of weight·(y − target)², and y_bar = 2·weight·(y − target)/size.

    y (…); target and weight broadcast against it.
    """
    error = y - target
    return (weight * error * error).mean(), weight * error * (2 / error.size)


def expectile_error(q: Array, v: Array, valid: Array, expectile: float) -> tuple[float, Array]:
    """L = mean of valid·|τ − 1(q − v ≤ 0)|·(q − v)², and v_bar. q, v, valid (B,), τ `expectile`.

    v_bar = −2·valid·weight·(q − v)/B; no derivative in q. At q = v the weight is 1 − τ.
    """
    advantage = q - v
    weight = valid * np.where(advantage.real > 0, expectile, 1 - expectile).astype(v.real.dtype)
    v_bar = weight * advantage * (-2 / advantage.size)
    return (weight * advantage * advantage).mean(), v_bar


def sum_of_squares(*arrays: Array) -> float:
    """Σ x² over every number of the arrays, summed in float64."""
    return sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)


def all_scaled(scale: float, *arrays: Array) -> tuple[Array, ...]:
    """scale·x of each of the arrays."""
    return tuple(a * scale for a in arrays)


def adam_step(
    theta: Array,
    theta_bar: Array,
    mean: Array,
    square: Array,
    count: int,
    learning_rate: float,
    eps: float = EPS,
    eps_root: float = 0.0,
) -> tuple[Array, Array, Array]:
    """(θ, m, s) after Adam's update number `count` ≥ 1; all arrays of one shape.

    m ← β₁m + (1−β₁)g,  s ← β₂s + (1−β₂)g²,  θ ← θ − lr·(m/(1−β₁ⁿ)) / (√(s/(1−β₂ⁿ) + ε_root) + ε)
    with g = theta_bar and n = count. Source: optax.adam (official.md, section 3).
    """
    mean_scale, square_scale = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
    mean = BETA1 * mean + (1 - BETA1) * theta_bar
    square = BETA2 * square + (1 - BETA2) * (theta_bar * theta_bar)
    corrected = square * square_scale
    root = np.sqrt(corrected + eps_root if eps_root else corrected)
    return theta - learning_rate * (mean * mean_scale) / (root + eps), mean, square


def moving_average(target: Array, online: Array, tau: float) -> Array:
    """τ·online + (1 − τ)·target."""
    return tau * online + (1 - tau) * target
