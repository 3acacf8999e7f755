"""cuBLAS's products, on a handle of our own.

CuPy's functions set the handle's stream before every product, and refuse to while that stream is
captured: no product of theirs can be part of a graph. Here the stream is set once, and the same
library's functions are called as they are. Where they are not found, CuPy's are, and no graphs are
made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WORKSPACE = 32 << 20
"""Bytes, as NVIDIA recommends for its large GPUs. A workspace that was given is not allocated
during a capture, and with it the same product has the same bits on every stream."""
DEFAULT_MATH, TF32_MATH = 0, 3
"""cublasMath_t: CUBLAS_DEFAULT_MATH, which is without TF32, and CUBLAS_TF32_TENSOR_OP_MATH."""
_NAMES = {4: "sgemmStridedBatched", 8: "dgemmStridedBatched"}
"""By bytes of a number."""
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_MATRIX = _POINTER, _INT, _LONG
_ARGUMENTS = (
    _POINTER, *5 * (_INT,), _POINTER, *_MATRIX, *_MATRIX, _POINTER, *_MATRIX, _INT,
)  # fmt: skip
"""handle; two transpositions; m, n, k; α; A, B; β; C; matrices."""


@dataclass(frozen=True)
class Matrices:
    """A matrix in device memory, or one for each member: address, row stride, member stride (in
    numbers); transposed: it is the transpose of what lies there. plain: where it lies as it is.
    """

    at: int
    stride: int
    member: int = 0
    transposed: bool = False
    plain: int = 0


class Cublas:
    """A handle that works on one stream. Raises ImportError where cuBLAS cannot be loaded.

    float32 products are float32, unless tf32: then their factors are rounded to TF32.
    """

    def __init__(self, xp: Any, stream: Any, tf32: bool = False) -> None:
        module = xp.cuda.cublas
        self._handle = module.create()
        module.setStream(self._handle, stream.ptr)
        module.setMathMode(self._handle, TF32_MATH if tf32 else DEFAULT_MATH)
        self._factors: dict[tuple[str, float], Any] = {}
        self._workspace = None
        try:
            library = loaded(module)
            self._functions = {
                size: _checked(getattr(library, f"cublas{name[0].upper()}{name[1:]}"))
                for size, name in _NAMES.items()
            }
            workspace = library.cublasSetWorkspace_v2
        except (OSError, AttributeError):
            self._functions = {size: getattr(module, name) for size, name in _NAMES.items()}
            return
        workspace.argtypes, workspace.restype = (_POINTER, _POINTER, ctypes.c_size_t), _INT
        try:
            with stream:
                self._workspace = xp.empty(WORKSPACE, np.uint8)
        except xp.cuda.memory.OutOfMemoryError:
            return  # cuBLAS has a smaller one
        _require_done(workspace(self._handle, self._workspace.data.ptr, WORKSPACE))

    def product(
        self, dtype: np.dtype[Any], sizes: tuple[int, int, int], left: Matrices, right: Matrices,
        out: Matrices, members: int = 1, add: bool = False,
    ) -> None:  # fmt: skip
        """out (+)= left·right for each member, of sizes (M, N, K): left (M, K), right (K, N)."""
        M, N, K = sizes
        one, beta = self._factor(dtype, 1.0), self._factor(dtype, float(add))
        # cuBLAS counts by columns: it is given the transposed product
        self._functions[dtype.itemsize](
            self._handle, int(right.transposed), int(left.transposed), N, M, K, one,
            right.at, right.stride, right.member, left.at, left.stride, left.member,
            beta, out.at, out.stride, out.member, members,
        )  # fmt: skip

    def _factor(self, dtype: np.dtype[Any], value: float) -> int:
        """The address of a factor, which is read when the product is started."""
        kept = self._factors.setdefault((dtype.name, value), np.array(value, dtype))
        return int(kept.ctypes.data)


def loaded(module: Any) -> Any:
    """The library that CuPy's module has loaded, found through it, whatever its version.

    Raises OSError, or AttributeError of its functions, where it is not.
    """
    return ctypes.CDLL(module.__file__)


def _checked(function: Any) -> Callable[..., None]:
    function.argtypes, function.restype = _ARGUMENTS, _INT

    def call(*args: Any) -> None:
        _require_done(function(*args))

    return call


def _require_done(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS answers with status {status}")
