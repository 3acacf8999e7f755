"""Memory of compiled kernels: results, on what earlier results no longer use, and scratch.

A training update makes and drops the same arrays each time. The C library hands their pages back
in between, and fresh pages must be mapped and zeroed, and are in no cache: a tenth of an update.
Here each thread keeps the memory of its results, and gives it out again once nobody else refers to
it: whoever holds an array, or a view of one, keeps what it holds.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.cache import kernel
from qgf_ref.backends.numba.kernels.simd import address_of

SMALLEST = 1 << 14
"""Bytes below which the C library keeps its memory itself."""
LIMIT = 1 << 28
"""Bytes that one thread keeps at most."""
TOGETHER = 1 << 23
"""Bytes of arrays that lie in one piece at most."""
LINE = 64
"""Bytes of a cache line."""
_BYTE = np.dtype(np.uint8)


class Pool:
    """The memory that one thread's results lie on."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: dict[int, deque[Array]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """`np.empty`, on memory to which only the pool refers, if it has some of that size."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST or size > self.limit or not _COUNTED:
            return np.empty(shape, dtype)
        held = self._held.get(size)
        if held is None:
            held = self._held[size] = deque()
        for _ in range(len(held)):
            held.rotate(-1)  # what was given out longest ago is the likeliest to be free
            if sys.getrefcount(held[-1]) == _ONLY_THE_POOL:
                return np.ndarray(shape, dtype, held[-1])
        if self.bytes + size > self.limit:  # of sizes no longer in use, perhaps: begin anew
            self._held, self.bytes = {size: (held := deque())}, 0
        held.append(np.empty(size, np.uint8))
        self.bytes += size
        return np.ndarray(shape, dtype, held[-1])


_probe = deque([np.empty(1, np.uint8)])
_ONLY_THE_POOL = sys.getrefcount(_probe[-1])
"""Measured: what the call itself adds is the interpreter's business."""
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Without Python's lock another thread's count may not have arrived yet."""

_local = threading.local()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`np.empty`, from this thread's pool."""
    pool: Pool | None = getattr(_local, "pool", None)
    if pool is None:
        pool = _local.pool = Pool()
    return pool.empty(shape, dtype)


def scratch(sizes: Mapping[str, int], dtype: np.dtype[Any]) -> list[Array]:
    """This thread's buffers of at least so many elements, kept between calls, in the order given.

    What is in them lasts until the next call; fresh pages cost more than small blocks.
    """
    held: dict[Any, Array] | None = getattr(_local, "scratch", None)
    if held is None:
        held = _local.scratch = {}
    for name, size in sizes.items():
        if (name, dtype) not in held or held[name, dtype].size < size:
            held[name, dtype] = np.empty(size, dtype)
    return [held[name, dtype] for name in sizes]


@kernel
def _address(array):
    return address_of(array)


def address(array: Array) -> int:
    """Where the first element of a real array lies. NumPy takes ten times as long to say it."""
    plain = array if type(array) is np.ndarray else np.asarray(array)  # such as a memory map
    at: int = _address(plain)
    return at


def several(shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any]) -> tuple[list[Array], Array]:
    """New arrays of these shapes from this thread's pool, and their addresses (n,).

    Together in one piece if they are small, as there is then one call to make instead of many.
    Large ones lie apart: what is done with may then become anything of its size.
    """
    offsets, size = _layout(shapes, dtype.itemsize)
    if size > TOGETHER:
        apart = [empty(shape, dtype) for shape in shapes]
        return apart, np.array([address(a) for a in apart], np.int64)
    whole = empty((size,), _BYTE)
    arrays = [np.ndarray(s, dtype, whole, at) for s, at in zip(shapes, offsets, strict=True)]
    return arrays, np.add(offsets, address(whole))


@lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[int, ...], ...], itemsize: int) -> tuple[list[int], int]:
    """Offsets of arrays that lie one after another, each from a cache line on, and their bytes."""
    offsets, at = [], 0
    for shape in shapes:
        offsets.append(at)
        at += -(-math.prod(shape) * itemsize // LINE) * LINE
    return offsets, at
