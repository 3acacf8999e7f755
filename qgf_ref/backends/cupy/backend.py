"""The backend cupy. CuPy is imported when it is first used, not when the backend is named."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.backends.interface import Backend, Executor, Residence
from qgf_ref.backends.program.record import Actor, Chain, NotRecordable
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.kernels import Kernels
from qgf_ref.provenance import note

CUDA = 2, 13
"""The device's kind, as DLPack numbers them: a GPU's memory, and memory that it manages."""
TF32 = "cupy:tf32"


def kernels(dtype: DTypeLike | None = None, tf32: bool = False) -> Kernels:
    """Dense blocks and learning primitives on the GPU. Raises InputError on float64 with tf32."""
    if tf32 and dtype is not None:
        _require_float32(dtype)
    from qgf_ref.backends.cupy.kernels import device_kernels

    return device_kernels(tf32)  # compiled at their first use


def executor(flow: GuidedFlow | Actor, chain: Chain, key: Any, tf32: bool = False) -> Executor:
    """The program of a chain, on the GPU. Raises NotRecordable; InputError on float64 with tf32."""
    if isinstance(flow, Actor):
        raise NotRecordable("an actor's chain, whose noise is no instruction here")
    if tf32:
        _require_float32(flow.field.dtype)
    from qgf_ref.backends.cupy.sampler import device_sampler, tf32_sampler

    return (tf32_sampler if tf32 else device_sampler)(flow, chain, key)


def _require_float32(dtype: DTypeLike) -> None:
    if np.dtype(dtype) != np.float32:
        raise InputError(
            f"backend {TF32} rounds the factors of float32's products, and these networks are in "
            f"{np.dtype(dtype)}: load them in float32 (--dtype float32), or use backend cupy"
        )


def require() -> None:
    """Raise InputError where there is no CuPy, no driver, no GPU, or too old a driver."""
    from qgf_ref.backends.cupy.device import cupy

    cupy()


def require_tf32() -> None:
    """As `require`, and on a GPU without TF32. What is made from now on says that it was asked for
    (`qgf_ref.provenance`), and so does a line on stderr.
    """
    from qgf_ref.backends.cupy.device import cupy, require_tensor_cores

    require_tensor_cores(cupy())
    note("float32_products", f"TF32 (backend {TF32})")
    print(
        f"qgf_ref: backend {TF32}: the factors of cuBLAS's float32 products are rounded to TF32, "
        "11 bits of 24",
        file=sys.stderr,
    )


def own_array(array: Any) -> Any:
    """A CuPy array of what another library has on the GPU; None where it has nothing there.

    Raises InputError on one of another GPU than CuPy's current one, and on what is not handed out,
    such as a tensor that requires a gradient.
    """
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return None
    kind, number = map(int, array.__dlpack_device__())
    if kind not in CUDA:
        return None
    from qgf_ref.backends.cupy.device import cupy

    xp = cupy()
    current = int(xp.cuda.runtime.getDevice())
    if number != current:
        raise InputError(
            f"this {type(array).__name__} is on GPU {number}, and CuPy works on GPU {current}: "
            f"copy it, or call within `with cupy.cuda.Device({number}):`"
        )
    if isinstance(array, xp.ndarray):
        return array
    try:
        return xp.from_dlpack(array)
    except (BufferError, TypeError, RuntimeError) as error:
        raise InputError(
            f"this {type(array).__name__} cannot be read where it is ({error}): give a plain array "
            "of float32 or float64"
        ) from error


def residence(tf32: bool = False) -> Residence:
    """Where a training's arrays are."""
    from qgf_ref.backends.cupy.training import DeviceArrays

    return DeviceArrays(tf32)


_EXACT = Backend(
    "cupy", kernels, executor, packages=("cupy",), require=require, own_array=own_array,
    residence=residence,
)  # fmt: skip
_ROUNDED = replace(
    _EXACT, name=TF32, kernels=partial(kernels, tf32=True), executor=partial(executor, tf32=True),
    require=require_tf32, residence=partial(residence, tf32=True), double=False,
    coarser=2.0**13,
)  # fmt: skip
BACKEND = replace(_EXACT, ways=(_ROUNDED,))
