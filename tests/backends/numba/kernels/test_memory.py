"""Memory is given out again when nobody holds it, and never before."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from qgf_ref.backends.numba.kernels.fused import numba_kernels
from qgf_ref.backends.numba.kernels.memory import SMALLEST, Pool, empty
from qgf_ref.ops.dense import DenseParts, DenseRule

FLOAT = np.dtype(np.float32)
SHAPE = (2, SMALLEST // 4)


def test_memory_comes_back_once_the_last_view_is_gone() -> None:
    pool = Pool()
    array = pool.empty(SHAPE, FLOAT)
    assert array.shape == SHAPE and array.dtype == FLOAT and array.flags.c_contiguous
    address, view = array.ctypes.data, array[1, 3:].reshape(-1)[::2]
    del array
    other = pool.empty(SHAPE, FLOAT)
    assert other.ctypes.data != address  # the view still holds it
    bytes_held = pool.bytes
    del view
    assert pool.empty(SHAPE, FLOAT).ctypes.data == address
    assert pool.bytes == bytes_held


def test_what_holds_no_array_but_its_buffer_counts_too() -> None:
    pool = Pool()
    array = pool.empty(SHAPE, FLOAT)
    address, held = array.ctypes.data, memoryview(array)  # type: ignore[arg-type]
    del array
    assert pool.empty(SHAPE, FLOAT).ctypes.data != address
    del held
    assert pool.empty(SHAPE, FLOAT).ctypes.data == address


def test_a_full_pool_forgets_and_frees() -> None:
    size = 2 * SMALLEST
    pool = Pool(limit=3 * size)
    kept = pool.empty(SHAPE, FLOAT)
    kept[:] = 7
    dropped = pool.empty(SHAPE, FLOAT)
    memory = weakref.ref(dropped.base)
    del dropped
    pool.empty((3 * SHAPE[0], SHAPE[1] // 2), FLOAT)
    assert pool.bytes <= pool.limit
    pool.empty((3, SHAPE[1] // 2), FLOAT)
    assert pool.bytes <= pool.limit and memory() is None
    assert (kept == 7).all()
    assert pool.empty((4 * size,), FLOAT).base is None  # larger than the pool: not pooled


def test_small_arrays_are_left_to_numpy() -> None:
    assert empty((4, 5), FLOAT).base is None


def test_each_thread_has_memory_of_its_own() -> None:
    found: list[int] = []
    first = empty(SHAPE, FLOAT).ctypes.data  # free again, for this thread alone
    thread = threading.Thread(target=lambda: found.append(empty(SHAPE, FLOAT).ctypes.data))
    thread.start()
    thread.join()
    assert found[0] != first


def test_a_cache_that_the_caller_holds_is_never_overwritten() -> None:
    rng = np.random.default_rng(0)
    x, y_bar = (rng.standard_normal((128, 96)).astype(np.float32) for _ in range(2))
    kernel = rng.standard_normal((96, 96)).astype(np.float32)
    ones = np.ones(96, np.float32)
    parts, rule = DenseParts(kernel, ones, ones, ones), DenseRule("gelu")
    y, cache = numba_kernels.dense(x, parts, rule)
    assert y.base is not None
    copies = [np.copy(a) for a in (y, cache.x_hat, cache.rstd, cache.slope)]
    _, bars = numba_kernels.dense_vjp_params(y_bar, cache)
    expected = np.copy(bars.kernel)
    for _ in range(20):  # what these make is dropped at once, and lies on each other's memory
        _, other = numba_kernels.dense(-2 * x, parts, rule)
        numba_kernels.dense_vjp_params(2 * y_bar, other)
    for a, b in zip((y, cache.x_hat, cache.rstd, cache.slope), copies, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(bars.kernel, expected)
    np.testing.assert_array_equal(numba_kernels.dense_vjp_params(y_bar, cache)[1].kernel, expected)
