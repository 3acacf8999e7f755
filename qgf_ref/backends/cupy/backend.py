"""The backend cupy. CuPy is imported when it is first used, not when the backend is named."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.backends.engine import Backend, Executor, Residence
from qgf_ref.backends.program.record import Chain
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.kernels import Kernels

CUDA = 2, 13
"""The device's kind, as DLPack numbers them: a GPU's memory, and memory that it manages."""


def kernels(dtype: DTypeLike | None = None) -> Kernels:
    """Dense blocks and learning primitives on the GPU."""
    del dtype  # compiled at their first use
    from qgf_ref.backends.cupy.kernels import device_kernels

    return device_kernels()


def executor(flow: GuidedFlow, chain: Chain, key: Any) -> Executor:
    """The program of a chain, on the GPU. Raises NotRecordable."""
    from qgf_ref.backends.cupy.sampler import device_sampler

    return device_sampler(flow, chain, key)


def require() -> None:
    """Raise InputError where there is no CuPy, no driver, no GPU, or too old a driver."""
    from qgf_ref.backends.cupy.device import cupy

    cupy()


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
    from qgf_ref.backends.cupy.device import cupy, device

    xp, current = cupy(), device().number
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


def residence() -> Residence:
    """Where a training's arrays are."""
    from qgf_ref.backends.cupy.training import DeviceArrays

    return DeviceArrays()


BACKEND = Backend(
    "cupy", kernels, executor, packages=("cupy",), require=require, own_array=own_array,
    residence=residence,
)  # fmt: skip
