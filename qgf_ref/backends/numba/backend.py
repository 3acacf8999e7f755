"""The backend numba. Numba is imported when it is first used, not when the backend is named."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.arrays import real_dtype
from qgf_ref.backends.interface import Backend, Executor
from qgf_ref.backends.program.record import Actor, Chain
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.kernels import Kernels


def kernels(dtype: DTypeLike | None = None) -> Kernels:
    """Compiled dense blocks and learning primitives."""
    from qgf_ref.backends.numba.kernels.fused import numba_kernels, prepare

    if dtype is not None:
        prepare(real_dtype(dtype))
    return numba_kernels


def executor(flow: GuidedFlow | Actor, chain: Chain, key: Any) -> Executor:
    """The compiled program of a chain. Raises NotRecordable."""
    from qgf_ref.backends.numba.sampler import compiled_sampler

    return compiled_sampler(flow, chain, key)


BACKEND = Backend("numba", kernels, executor, threaded=True, packages=("numba", "llvmlite"))
