"""The elementwise primitives of `qgf_ref.ops.learning` in one pass over memory each.

Sums (of losses) run in float64 whatever the arrays are, and in order.
"""

from __future__ import annotations

import math

from qgf_ref.backends.numba.kernels.cache import kernel
from qgf_ref.backends.numba.kernels.simd import like, memory_at


@kernel
def path_point(x0, x1, t, B, D, point, target):
    """point = (1 − t)x0 + t x1 and target = x1 − x0, flat (B·D,); t (B,)."""
    for b in range(B):
        late = t[b]
        early = like(1, late) - late
        for j in range(b * D, (b + 1) * D):
            point[j] = early * x0[j] + late * x1[j]
            target[j] = x1[j] - x0[j]


@kernel
def squared_error(y, target, weight, repeat, y_bar):
    """Mean of weight·(y − target)² and its cotangent. y flat (repeat·n,); target, weight (n,)."""
    n = target.size
    total = 0.0
    share = like(2 / y.size, y[0])
    for r in range(repeat):
        for j in range(n):
            error = y[r * n + j] - target[j]
            weighted = weight[j] * error
            total += weighted * error
            y_bar[r * n + j] = weighted * share
    return total / y.size


@kernel
def expectile_error(q, v, valid, expectile, v_bar):
    """Mean of valid·|τ − 1(q − v ≤ 0)|·(q − v)² and its cotangent in v. All (B,)."""
    total = 0.0
    share = like(-2 / v.size, v[0])
    above, below = like(expectile, v[0]), like(1 - expectile, v[0])
    for j in range(v.size):
        advantage = q[j] - v[j]
        weight = valid[j] * (above if advantage > like(0, advantage) else below)
        total += weight * advantage * advantage
        v_bar[j] = weight * advantage * share
    return total / v.size


@kernel
def adam_step(theta, theta_bar, mean, square, b1, b2, mean_scale, square_scale, rate, eps, eps_root,
              new_theta, new_mean, new_square):  # fmt: skip
    """θ, m, s after one update of Adam, all flat; the scales are 1/(1 − βⁿ)."""
    zero = theta_bar[0]
    keep_mean, take_mean = like(b1, zero), like(1 - b1, zero)
    keep_square, take_square = like(b2, zero), like(1 - b2, zero)
    scale_mean, scale_square = like(mean_scale, zero), like(square_scale, zero)
    step, outside, inside = like(rate, zero), like(eps, zero), like(eps_root, zero)
    for j in range(theta.size):
        g = theta_bar[j]
        m = keep_mean * mean[j] + take_mean * g
        s = keep_square * square[j] + take_square * (g * g)
        root = like(math.sqrt(s * scale_square + inside), zero)
        new_theta[j] = theta[j] - step * (m * scale_mean) / (root + outside)
        new_mean[j] = m
        new_square[j] = s


@kernel
def moving_average(target, online, tau, out):
    """out = τ·online + (1 − τ)·target, all flat."""
    if target.size == 0:
        return
    new, old = like(tau, target[0]), like(1 - tau, target[0])
    for j in range(target.size):
        out[j] = new * online[j] + old * target[j]


@kernel
def adam_steps(table, example, b1, b2, mean_scale, square_scale, rate, eps, eps_root):
    """`adam_step` of many arrays: a row for each, its size and the addresses of θ, θ_bar, m, s and
    of what they become. `example` is any array of the dtype.
    """
    for i in range(table.shape[0]):
        n = table[i, 0]
        adam_step(
            memory_at(table[i, 1], n, example), memory_at(table[i, 2], n, example),
            memory_at(table[i, 3], n, example), memory_at(table[i, 4], n, example),
            b1, b2, mean_scale, square_scale, rate, eps, eps_root,
            memory_at(table[i, 5], n, example), memory_at(table[i, 6], n, example),
            memory_at(table[i, 7], n, example),
        )  # fmt: skip


@kernel
def moving_averages(table, example, tau):
    """`moving_average` of many arrays: a row for each, its size and the addresses of target, online
    and of what is made.
    """
    for i in range(table.shape[0]):
        n = table[i, 0]
        moving_average(
            memory_at(table[i, 1], n, example), memory_at(table[i, 2], n, example), tau,
            memory_at(table[i, 3], n, example),
        )  # fmt: skip


@kernel
def sum_of_squares(table, example):
    """Σ x² of many arrays, in float64: a row for each, its size and address.

    Eight sums run beside each other, so that no addition waits for the one before.
    """
    total = 0.0
    for i in range(table.shape[0]):
        n = table[i, 0]
        x = memory_at(table[i, 1], n, example)
        a = b = c = d = e = f = g = h = 0.0
        whole = n - n % 8
        for j in range(0, whole, 8):
            a += float(x[j]) * float(x[j])
            b += float(x[j + 1]) * float(x[j + 1])
            c += float(x[j + 2]) * float(x[j + 2])
            d += float(x[j + 3]) * float(x[j + 3])
            e += float(x[j + 4]) * float(x[j + 4])
            f += float(x[j + 5]) * float(x[j + 5])
            g += float(x[j + 6]) * float(x[j + 6])
            h += float(x[j + 7]) * float(x[j + 7])
        for j in range(whole, n):
            a += float(x[j]) * float(x[j])
        total += ((a + b) + (c + d)) + ((e + f) + (g + h))
    return total


@kernel
def all_scaled(table, example, scale):
    """scale·x of many arrays: a row for each, its size, its address and that of what is made."""
    factor = like(scale, example[0])
    for i in range(table.shape[0]):
        n = table[i, 0]
        x, y = memory_at(table[i, 1], n, example), memory_at(table[i, 2], n, example)
        for j in range(n):
            y[j] = factor * x[j]
