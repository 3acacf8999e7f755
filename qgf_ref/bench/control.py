"""What the machine can do, timed in the same rounds: matrix products, and reading memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

GEMM = 1024
"""Rows, columns and depth of the product: a 4×1024 network's, at batch 1024."""
GEMM_FLOPS = 2 * GEMM**3
_LEAST_READ = 1 << 26


@lru_cache(maxsize=1)
def _reader() -> Callable[[Any], Any]:
    """Sums an array, compiled."""
    from qgf_ref.backends.numba.kernels.cache import compiled

    def read(x: Any) -> Any:
        total = np.float32(0)
        for i in range(x.size):
            total += x[i]
        return total

    reader: Callable[[Any], Any] = compiled(read, fastmath=True)
    return reader


class Machine:
    """The controls, on `threads` threads. A context, which ends its threads.

    Matrix products run on BLAS's own threads, whose number the caller sets; splitting their rows
    over Python threads, with BLAS on one each, gave the same rate (2 cores, 196 to 205 GFLOP/s).
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._products: dict[str, Callable[[], object]] = {}

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def gemm(self, dtype: str) -> Callable[[], object]:
        """One product, `GEMM_FLOPS`."""
        if dtype not in self._products:
            x = np.random.default_rng(0).standard_normal((GEMM, GEMM)).astype(dtype)
            out = np.empty_like(x)
            self._products[dtype] = lambda: np.matmul(x, x, out=out)
            self._products[dtype]()
        return self._products[dtype]

    def read(self, size: int) -> tuple[Callable[[], object], int]:
        """A function that reads `size` bytes several times over, and the bytes it reads in all.

        Every thread sums its own part of them, as often as makes starting it cheap.
        """
        parts = [
            np.ones(max(1, size // 4 // self._threads), np.float32) for _ in range(self._threads)
        ]
        once = sum(part.nbytes for part in parts)
        passes = -(-_LEAST_READ // once)

        read = _reader()

        def sweep(part: Any) -> None:
            for _ in range(passes):
                read(part)

        read(parts[0])
        return lambda: list(self._pool.map(sweep, parts)), once * passes
