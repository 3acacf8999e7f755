"""The packed product against exact sums, for every remainder of rows, depth and columns."""

from __future__ import annotations

import itertools
import platform
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.cache import compiled
from qgf_ref.backends.numba.kernels.gemm import multiply, packed, panels
from qgf_ref.backends.numba.kernels.packing import pack_transposed
from qgf_ref.backends.numba.kernels.simd import (
    PANEL_VECTORS,
    TILE_ROWS,
    VECTOR_BYTES,
    panel_width,
    power_of_two,
)


@compiled
def compiled_multiply(a, row, col, rows, b, depth, first, last, c, c_row):  # type: ignore[no-untyped-def]
    multiply(a, 0, row, col, rows, b, 0, depth, first, last, c, 0, c_row)


def product(a: Array, b: Array, *, transposed: bool = False) -> Array:
    """A·B by the kernel; with `transposed`, A is stored column by column."""
    rows, depth = a.shape
    count = panels(b.shape[1], b.itemsize)
    c = np.full((rows, count * panel_width(b.itemsize) + 3), np.nan, b.dtype)
    flat = np.ascontiguousarray(a.T if transposed else a).ravel()
    strides = (1, rows) if transposed else (depth, 1)
    compiled_multiply(flat, *strides, rows, packed(b), depth, 0, count, c.ravel(), c.shape[1])
    return c[:, : b.shape[1]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_exact_sums(dtype: Any) -> None:
    """Fused multiply-adds one after another: at most `depth` roundings, measured 0.5·√depth."""
    rng = np.random.default_rng(0)
    width = panel_width(np.dtype(dtype).itemsize)
    for rows, depth, columns in itertools.product(
        range(1, 2 * TILE_ROWS + 3), (1, 2, 33), (1, width - 1, width, width + 1)
    ):
        a = rng.standard_normal((rows, depth)).astype(dtype)
        b = rng.standard_normal((depth, columns)).astype(dtype)
        exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
        scale = abs(a).astype(np.longdouble) @ abs(b).astype(np.longdouble)
        bound = depth * np.finfo(dtype).eps / 2 * scale
        for transposed in (False, True):
            assert (abs(product(a, b, transposed=transposed) - exact) <= bound).all()


def test_weights_are_asked_for_ahead_of_their_use() -> None:
    """By the tile of several rows, a line at a time; that of one row gains nothing by it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("looks for x86's instruction")
    product(np.ones((9, 3), np.float32), np.ones((3, 40), np.float32))
    (text,) = (
        text
        for signature, text in compiled_multiply.inspect_asm().items()
        if signature[0].dtype.name == "float32"
    )
    several = 3  # tiles: of TILE_ROWS, 4 and 2 rows
    assert text.count("prefetcht0") >= several * PANEL_VECTORS * VECTOR_BYTES // 64


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((29, 41)), rng.standard_normal((41, 20))
    whole = product(a, b)
    for first, last in ((0, 1), (3, 5), (8, 21), (28, 29)):
        np.testing.assert_array_equal(product(a[first:last], b), whole[first:last])


def test_panels_can_be_computed_apart() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((7, 50))
    whole, count = product(a, b), panels(50, 8)
    width = count * panel_width(8)
    parts = np.full((5, width), np.nan)
    for panel in range(count):
        compiled_multiply(a.ravel(), 7, 1, 5, packed(b), 7, panel, panel + 1, parts.ravel(), width)
        assert np.isnan(parts[:, (panel + 1) * panel_width(8) :]).all()
    np.testing.assert_array_equal(parts[:, :50], whole)


@compiled
def compiled_power(x):  # type: ignore[no-untyped-def]
    return power_of_two(x)


def test_powers_of_two() -> None:
    for n in range(-126, 128):
        assert compiled_power(np.float32(n + 1.5 * 2**23)) == np.float32(2.0) ** n
    for n in range(-1022, 1024):
        assert compiled_power(np.float64(n + 1.5 * 2.0**52)) == 2.0**n


@compiled
def compiled_pack_transposed(w, K, F, out):  # type: ignore[no-untyped-def]
    pack_transposed(w, K, F, out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_panels_of_a_transposed_weight(dtype: Any) -> None:
    """Those of the transpose itself, and nothing written behind them, for every remainder."""
    rng = np.random.default_rng(0)
    width = panel_width(np.dtype(dtype).itemsize)
    lanes = width // PANEL_VECTORS
    sizes = (1, lanes - 1, lanes, width - 1, width, width + 1, 2 * width + 3, 96)
    for K, F in itertools.product(sizes, (*sizes, 65, 130)):
        w = rng.standard_normal((K, F)).astype(dtype)
        expected = packed(np.ascontiguousarray(w.T))
        out = np.full(expected.size + 2 * lanes, np.nan, dtype)
        compiled_pack_transposed(w.ravel(), K, F, out)
        np.testing.assert_array_equal(out[: expected.size], expected)
        assert np.isnan(out[expected.size :]).all()
