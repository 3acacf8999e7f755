"""Matrix products of compiled code, on packed weights.

A weight (K, F) is packed into panels of `panel_width` columns, each stored row by row, so that
the tile reads it from front to back; the last panel is filled up with zeros. Weights do not change
along a chain: packing is paid once for each sampler.
"""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.cache import inner, summing
from qgf_ref.backends.numba.kernels.simd import (
    TILE_ROWS,
    like,
    panel_width,
    tile_1,
    tile_2,
    tile_4,
    tile_full,
)


def panels(columns: int, itemsize: int) -> int:
    """Number of panels of a weight with that many columns."""
    return -(-columns // panel_width(itemsize))


def packed(weight: Array) -> Array:
    """The panels of weight (K, F) one after another, 1-D."""
    K, F = weight.shape
    width = panel_width(weight.itemsize)
    count = panels(F, weight.itemsize)
    wide = np.zeros((K, count * width), weight.dtype)
    wide[:, :F] = weight
    return np.ascontiguousarray(wide.reshape(K, count, width).swapaxes(0, 1)).ravel()


@inner
def multiply_panels(
    a, a_at, a_row, a_col, rows, b, b_at, b_step, b_row, depth, first, last, c, c_at, c_row
):
    """`multiply` of panels that begin `b_step` apart, whose rows are `b_row` apart."""
    width = panel_width(b.itemsize)
    for panel in range(first, last):
        b_panel = b_at + panel * b_step
        c_panel = c_at + panel * width
        m = 0
        while m + TILE_ROWS <= rows:
            tile_full(
                a, a_at + m * a_row, a_row, a_col, b, b_panel, b_row,
                c, c_panel + m * c_row, c_row, depth,
            )  # fmt: skip
            m += TILE_ROWS
        while m + 4 <= rows:
            tile_4(
                a, a_at + m * a_row, a_row, a_col, b, b_panel, b_row,
                c, c_panel + m * c_row, c_row, depth,
            )  # fmt: skip
            m += 4
        if m + 2 <= rows:
            tile_2(
                a, a_at + m * a_row, a_row, a_col, b, b_panel, b_row,
                c, c_panel + m * c_row, c_row, depth,
            )  # fmt: skip
            m += 2
        if m < rows:
            tile_1(
                a, a_at + m * a_row, a_row, a_col, b, b_panel, b_row,
                c, c_panel + m * c_row, c_row, depth,
            )  # fmt: skip


@inner
def multiply(a, a_at, a_row, a_col, rows, b, b_at, depth, first, last, c, c_at, c_row):
    """C[:rows, panels first … last − 1] = A·B. A (rows, depth), B packed from b[b_at].

    A[m, k] = a[a_at + m·a_row + k·a_col], C[m, j] = c[c_at + m·c_row + j]. C is written up to the
    end of its last panel.
    """
    width = panel_width(b.itemsize)
    multiply_panels(
        a, a_at, a_row, a_col, rows, b, b_at, depth * width, width, depth, first, last,
        c, c_at, c_row,
    )  # fmt: skip


@summing
def dot(x, y):
    """Σ x·y, rows (F,)."""
    total = like(0, x[0])
    for j in range(x.size):
        total += x[j] * y[j]
    return total
