"""Where the operands of a compiled product lie: padded buffers, panels, strips, and their sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.backends.numba.kernels.cache import inner
from qgf_ref.backends.numba.kernels.simd import (
    PANEL_VECTORS,
    TILE_ROWS,
    like,
    panel_width,
    transpose_square,
    view,
)

CHUNK = 1024
"""Rows of the batch that one product xᵀ·y_bar sums over: their panel fits the core's cache."""
BLOCK_BYTES = 1 << 19
"""Of the two row blocks of a product: half of a core's second-level cache, so both stay there."""
PAD_BYTES = 64
PAGE = 4096
"""Rows that lie a multiple of this apart fall into one set of the first-level cache."""


@inner
def padded(columns, itemsize):
    """Elements from row to row of a buffer: whole panels, and never a multiple of a page."""
    width = panel_width_of(itemsize)
    return -(-columns // width) * width + PAD_BYTES // itemsize


panel_width_of = inner(panel_width)


@inner
def block_rows(depth, columns, rows, itemsize):
    """Rows of one block, a multiple of the tile's: what BLOCK_BYTES hold, from 8 to 128."""
    fitting = BLOCK_BYTES // ((depth + columns) * itemsize) // TILE_ROWS * TILE_ROWS
    wanted = -(-rows // TILE_ROWS) * TILE_ROWS
    return max(TILE_ROWS, min(fitting, 128 // TILE_ROWS * TILE_ROWS, wanted))


@inner
def pack(w, K, F, stride, out):
    """Panels of w (K, F), whose rows are `stride` apart, as `gemm.packed`."""
    pack_rows(w, K, F, stride, out, 0, K)


@inner
def pack_rows(w, count, F, stride, out, first_row, K):
    """The first `count` rows of w as rows `first_row` … of the panels of a matrix (K, F)."""
    width = panel_width_of(w.itemsize)
    for panel in range(-(-F // width)):
        first = panel * width
        columns = min(width, F - first)
        base = (panel * K + first_row) * width
        for k in range(count):
            source, goal = view(w, k * stride + first, columns), view(out, base + k * width, width)
            for j in range(columns):
                goal[j] = source[j]
            for j in range(columns, width):
                goal[j] = like(0, goal[j])


@inner
def pack_transposed(w, K, F, out):
    """Panels of wᵀ (F, K)."""
    width = panel_width_of(w.itemsize)
    lanes = width // PANEL_VECTORS
    for panel in range(-(-K // width)):
        first = panel * width
        count = min(width, K - first)
        base = panel * F * width
        squares = F // lanes * lanes if count == width else 0
        for begin in range(0, squares, lanes):
            for j in range(0, width, lanes):
                at, goal = (first + j) * F + begin, base + begin * width + j
                transpose_square(w, at, F, out, goal, width)
        for begin in range(squares, F, 64):
            end = min(F, begin + 64)
            for j in range(count):
                row = view(w, (first + j) * F, F)
                for f in range(begin, end):
                    out[base + f * width + j] = row[f]
            for j in range(count, width):
                for f in range(begin, end):
                    out[base + f * width + j] = like(0, out[0])


@inner
def copy_rows(source, at, rows, columns, stride, out, out_stride):
    """Rows of a dense matrix, from source[at], into a padded buffer."""
    for m in range(rows):
        row, goal = view(source, at + m * stride, columns), view(out, m * out_stride, columns)
        for j in range(columns):
            goal[j] = row[j]


@inner
def pack_strips(x, x_at, rows, K, out):
    """xᵀ in strips of the tile's rows: out[(s·rows + b)·tile + i] = x[b, s·tile + i], or 0."""
    for s in range(-(-K // TILE_ROWS)):
        first = s * TILE_ROWS
        count = min(TILE_ROWS, K - first)
        for b in range(rows):
            at, goal = x_at + b * K + first, (s * rows + b) * TILE_ROWS
            if count == TILE_ROWS:
                for i in range(TILE_ROWS):
                    out[goal + i] = x[at + i]
            else:
                for i in range(TILE_ROWS):
                    out[goal + i] = x[at + i] if i < count else like(0, out[0])


def buffer_sizes(B: int, K: int, F: int, dtype: np.dtype[Any]) -> dict[str, int]:
    """Elements of each buffer that the kernels of this module need, by name."""
    size, width = dtype.itemsize, panel_width(dtype.itemsize)
    wide = {n: -(-n // width) * width for n in (K, F)}
    stride = max(wide.values()) + PAD_BYTES // size
    rows = min(B, CHUNK)
    strip_rows = -(-K // TILE_ROWS) * TILE_ROWS
    return {
        "packed": max(K * wide[F], F * wide[K]),
        "a_work": 130 * stride,
        "c_work": (max(130, strip_rows) + TILE_ROWS) * stride,
        "strips": strip_rows * rows,
        "panels": rows * wide[F],
    }
