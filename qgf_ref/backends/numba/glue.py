"""Compiled operations between the networks, on values of a block of rows."""

from __future__ import annotations

import numpy as np

from qgf_ref.backends.numba.kernels.cache import inner, summing
from qgf_ref.backends.numba.kernels.simd import like, view


@inner
def reduce_members(q_at, value_at, share_at, rows, members, mean, work):
    """The minimum (ties share the derivative equally) or mean of members, and the shares."""
    one = like(1, work[0])
    for r in range(rows):
        total = work[q_at + r]
        lowest = total
        for e in range(1, members):
            q = work[q_at + e * rows + r]
            total += q
            # a NaN stays, and is then the share of every member
            lowest = q if q < lowest or q != q else lowest
        ties = like(0, one)
        for e in range(members):
            ties += one if work[q_at + e * rows + r] == lowest else like(0, one)
        work[value_at + r] = total / like(members, one) if mean else lowest
        for e in range(members):
            attains = work[q_at + e * rows + r] == lowest
            share = one / ties if attains else like(0, one) / ties
            work[share_at + e * rows + r] = one / like(members, one) if mean else share


@inner
def clip_values(x_at, out_at, slope_at, size, bound, work):
    """`qgf_ref.ops.clip.clip`: the value within ±bound, and the slope, ½ exactly at the bound."""
    zero, one, half = like(0, bound), like(1, bound), like(0.5, bound)
    for i in range(size):
        x = work[x_at + i]
        outside = zero if abs(x) > bound else half
        work[slope_at + i] = one if abs(x) < bound else outside
        low = -bound if x < -bound else x
        work[out_at + i] = bound if x > bound else low


@inner
def nearest(s_at, out_at, rows, numbers, work):
    """Of the second half of the numbers, that whose partner in the first is nearest by ratio."""
    half = numbers.size // 2
    for r in range(rows):
        wanted, best, chosen = float(work[s_at + r]), np.inf, 0
        for i in range(half):
            apart = numbers[i] / wanted
            apart = apart if apart > 1 else 1 / apart
            if apart < best:
                best, chosen = apart, i
        work[out_at + r] = like(numbers[half + chosen], work[0])


@summing
def all_finite(work, at, count):
    """Whether all numbers from `at` on are finite: 0·x is 0 for these alone."""
    values = view(work, at, count)
    zero = like(0, work[0])
    total = zero
    for j in range(count):
        total += values[j] * zero
    return total == zero
