"""Stands for the few CuPy calls that the backend makes: kernels run on the CPU.

Arrays and their memory: `tests.helpers.gpu.memory`. What is started while a stream is captured runs
when the graph is.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers.gpu import on_cpu
from tests.helpers.gpu.memory import (
    OutOfMemoryError,
    asarray,
    bare,
    check_canaries,
    empty,
    ndarray,
    require_inside,
    settings,
)


class Stream:
    """Runs everything at once, unless it is recorded. current: those that were entered, the last
    one last; the first is the caller's.
    """

    current: list[Stream]
    ptr = 7

    def __init__(self, non_blocking: bool = False) -> None:
        del non_blocking

    def record(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def wait_event(self, event: object) -> None:
        del event

    def synchronize(self) -> None: ...

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        assert Stream.current.pop() is self

    def begin_capture(self) -> None:
        if settings.refuse_capture:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted")
        settings.recording = []

    def end_capture(self) -> Any:
        if settings.recording is None:
            raise RuntimeError("no capture is under way")
        recorded, settings.recording = settings.recording, None
        return SimpleNamespace(launch=lambda stream=None: [work() for work in recorded])


class Event:
    """When it was recorded, by the host's clock: everything is done at once."""

    at = 0.0

    def record(self, stream: Any = None) -> None:
        del stream
        assert settings.recording is None
        self.at = time.perf_counter()


def _do(work: Callable[[], None]) -> None:
    if settings.recording is None:
        work()
    else:
        settings.recording.append(work)


class RawModule:
    """Kernels, compiled for the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        assert all(isinstance(option, str) for option in options)
        self.code = code

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code, name)


class RawKernel:
    """One of them."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, code: str, name: str) -> None:
        self.code, self.name = code, name

    def kernel(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...],
        shared_mem: int = 0, enable_cooperative_groups: bool = False,
    ) -> None:  # fmt: skip
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "not opted in"
        assert all(isinstance(a, np.generic | np.ndarray) and a.size == 1 for a in args), args
        kept = [np.array(a) for a in args]

        def work() -> None:
            turn = len(settings.launches)
            order = turn % 4 if settings.order is None else settings.order
            settings.launches.append(self.name)
            on_cpu.launch(
                self.code, self.name, grid, block, tuple(kept), shared_mem, order, turn,
                enable_cooperative_groups,
            )  # fmt: skip
            check_canaries()

        _do(work)


def _gemm(kind: Any) -> Callable[..., int]:
    itemsize = np.dtype(kind).itemsize

    def columns(
        at: int, m: int, n: int, ld: int, stride: int, count: int, inside: bool = True
    ) -> Any:
        """(count, m, n) by columns at an address."""
        assert ld >= m
        size = (((count - 1) * stride + (n - 1) * ld + m) * itemsize) if count * m * n else 0
        if inside:
            require_inside(at, size)
        flat = np.frombuffer(memoryview((ctypes.c_char * size).from_address(at)), kind)
        strides = (stride * itemsize, itemsize, ld * itemsize)
        return np.lib.stride_tricks.as_strided(flat, (count, m, n), strides, writeable=True)

    def gemm(
        handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int,
        sa: int, B: int, ldb: int, sb: int, beta: int, C: int, ldc: int, sc: int, count: int,
    ) -> int:  # fmt: skip
        assert set_up[handle] in (["stream"], ["stream", "workspace"]), set_up
        a, b = (float(columns(p, 1, 1, 1, 1, 1, inside=False)[0, 0, 0]) for p in (alpha, beta))

        def work() -> None:
            left = columns(A, *((k, m) if ta else (m, k)), lda, sa, count)
            right = columns(B, *((n, k) if tb else (k, n)), ldb, sb, count)
            left, right = (np.swapaxes(x, 1, 2) if t else x for x, t in ((left, ta), (right, tb)))
            if math_modes[handle] == 3 and kind is np.float32:
                left, right = (_tf32(x) for x in (left, right))
            out = columns(C, m, n, ldc, sc, count)
            with np.errstate(all="ignore"):  # cuBLAS says nothing of NaN
                product = a * (left @ right)
            out[...] = product + b * out if b else product

        _do(work)
        return 0

    return gemm


def _refusing(gemm: Callable[..., int]) -> Callable[..., None]:
    """As CuPy's functions, which set the stream."""

    def call(*args: Any) -> None:
        if settings.recording is not None:
            raise NotImplementedError(
                "calling cuBLAS API during stream capture is currently unsupported"
            )
        set_up[args[0]][:] = ["stream", "workspace"]
        gemm(*args)

    return call


FIRST = 11
"""Handle of one's own; the others follow."""
set_up: dict[int, list[str]] = {}
"""What each handle was told, in order: a stream takes the workspace away."""
math_modes: dict[int, int] = {}


def _create() -> int:
    handle = FIRST + len(set_up)
    set_up[handle], math_modes[handle] = [], 0
    return handle


def _tf32(x: Any) -> Any:
    """Rounded to 10 bits behind the first."""
    whole = np.ascontiguousarray(x).view(np.uint32)
    return ((whole + 0x0FFF + (whole >> 13 & 1)) & 0xFFFFE000).view(np.float32)


def _set_stream(handle: int, stream: int) -> None:
    assert settings.recording is None and stream == Stream.ptr
    set_up[handle][:] = ["stream"]


def _set_workspace(handle: int, address: int, size: int) -> int:
    require_inside(address, size)
    set_up[handle].append("workspace")
    return 0


S_GEMM, D_GEMM = _gemm(np.float32), _gemm(np.float64)
LIBRARY = SimpleNamespace(
    cublasSgemmStridedBatched=S_GEMM, cublasDgemmStridedBatched=D_GEMM,
    cublasSetWorkspace_v2=_set_workspace,
)  # fmt: skip
"""cuBLAS itself, whose functions answer with a status."""


def _memset(address: int, value: int, size: int, stream: int) -> None:
    del stream
    require_inside(address, size)
    _do(lambda: (ctypes.memset(address, value, size), None)[1])


class _Device:
    def __init__(self, number: int = 0) -> None:
        self.attributes = {
            "MultiProcessorCount": 3, "CooperativeLaunch": 1,
            "MaxSharedMemoryPerBlockOptin": 200 * 1024,
        }  # fmt: skip

    compute_capability = "90"

    def synchronize(self) -> None: ...

    @property
    def mem_info(self) -> tuple[int, int]:
        return settings.free - settings.taken, settings.free

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: Any) -> None: ...


def _set_math_mode(handle: int, mode: int) -> None:
    """Of a handle of one's own."""
    assert handle in set_up and mode in (0, 3)
    math_modes[handle] = mode


def _properties(number: int) -> dict[str, Any]:
    return {"name": b"no GPU: the processor stands for one", "l2CacheSize": 1 << 20}


def _make() -> ModuleType:
    module: Any = ModuleType("cupy")
    module.__spec__, module.__version__ = ModuleSpec("cupy", None), "14.0.0"
    module.ndarray, module.empty, module.asarray, module.RawModule = (
        ndarray,
        empty,
        asarray,
        RawModule,
    )
    module.ascontiguousarray = lambda x: x if x.flags.c_contiguous else asarray(x.host.copy())
    module.ones = lambda shape, dtype: asarray(np.ones(shape, dtype))
    module.empty_like = lambda x: empty(x.shape, x.dtype)
    module.zeros = lambda shape, dtype: asarray(np.zeros(shape, dtype))
    module.concatenate = lambda arrays, axis=0: asarray(np.concatenate(bare(list(arrays)), axis))
    module.broadcast_to = lambda x, shape: ndarray(np.broadcast_to(x.host, shape))
    module.from_dlpack = lambda array: array.__dlpack__()
    module.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)
    Stream.current = [Stream()]
    module.cuda = SimpleNamespace(
        alloc_pinned_memory=lambda size: bytearray(size),
        Event=Event, get_elapsed_time=lambda first, last: (last.at - first.at) * 1e3,
        Stream=Stream, Device=_Device, get_current_stream=lambda: Stream.current[-1],
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, memsetAsync=_memset,
            getDeviceCount=lambda: 1, getDevice=lambda: 0, getDeviceProperties=_properties,
        ),
        cublas=SimpleNamespace(
            create=_create, setMathMode=_set_math_mode, setStream=_set_stream,
            sgemmStridedBatched=_refusing(S_GEMM), dgemmStridedBatched=_refusing(D_GEMM),
        ),
    )  # fmt: skip
    return module


cupy = _make()


@contextmanager
def installed(monkeypatch: Any) -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in, whose persistent kernel has 64 threads a block."""
    import sys

    from qgf_ref import provenance
    from qgf_ref.backends.cupy import cublas, device, few_rows, sampler
    from qgf_ref.backends.engine import backend_named

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cublas, "loaded", lambda module: LIBRARY)
    monkeypatch.setattr(few_rows, "THREADS", {4: 64, 8: 64})
    for name, value in (("order", None), ("refuse_capture", False), ("free", 1 << 33)):
        setattr(settings, name, value)
    settings.launches.clear()

    def forget() -> None:
        device._device.cache_clear()
        for remembered in (sampler.device_sampler, sampler.tf32_sampler):
            remembered.samplers.clear()
            remembered.networks.clear()
        backend_named.cache_clear()
        provenance._notes.clear()
        set_up.clear()
        math_modes.clear()

    forget()
    try:
        yield cupy
    finally:
        Stream.current[1:] = []
        forget()
