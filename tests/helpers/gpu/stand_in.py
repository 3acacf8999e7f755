"""Stands for the few CuPy calls that the backend makes: memory with canaries, kernels on the CPU.

Its arrays refuse what CuPy's refuse: to become NumPy arrays unasked, and to meet them. Memory that
is given out holds NaN, and has canaries around it that are looked at after every launch. What is
started while a stream is captured runs when the graph is.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers.gpu import on_cpu

CANARY = 256
_blocks: dict[int, tuple[int, weakref.ref[Any]]] = {}
"""Address → bytes, and who holds them."""
settings = SimpleNamespace(order=None, launches=[], free=1 << 33, refuse_capture=False, taken=0)
"""order: of threads, else each launch takes the next; launches: names of kernels, as they ran."""


class OutOfMemoryError(MemoryError):
    """As of CuPy."""


def _allocate(size: int) -> np.ndarray[Any, Any]:
    if settings.taken + size > settings.free:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
    whole = np.full(size + 3 * CANARY, 0xFF, np.uint8)
    start = CANARY + -whole.ctypes.data % CANARY
    whole[:start], whole[start + size :] = 0xA5, 0xA5
    inner = whole[start : start + size]
    _blocks[inner.ctypes.data] = size, weakref.ref(whole)
    settings.taken += size
    weakref.finalize(whole, _free, inner.ctypes.data, size)
    return inner


def _free(address: int, size: int) -> None:
    _blocks.pop(address, None)
    settings.taken -= size


def check_canaries() -> None:
    """Raise KernelError where something was written beside an allocation."""
    for address, (size, holder) in list(_blocks.items()):
        whole = holder()
        if whole is None:
            continue
        start = address - whole.ctypes.data
        if (whole[:start] != 0xA5).any() or (whole[start + size :] != 0xA5).any():
            raise on_cpu.KernelError(f"written beside an allocation of {size} bytes")


def _require_inside(address: int, size: int) -> None:
    if not any(at <= address and address + size <= at + n for at, (n, _) in _blocks.items()):
        raise on_cpu.KernelError(f"{size} bytes that lie outside of every allocation")


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801
    """An array on the device that is none."""

    def __init__(self, host: np.ndarray[Any, Any]) -> None:
        self.host = host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))
    T = property(lambda self: ndarray(self.host.T))
    real = property(lambda self: ndarray(self.host.real))
    __cuda_array_interface__ = property(lambda self: self.host.__array_interface__)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __len__(self) -> int:
        return len(self.host)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, index: Any) -> ndarray:
        return ndarray(np.asarray(self.host[_bare(index)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_bare(index)] = _bare(value)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def get(self) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        assert not Stream.recording, "a synchronous transfer in a capture"
        return self.host.copy()

    def set(self, value: np.ndarray[Any, Any], stream: Any = None) -> None:
        """From the host."""
        del stream
        assert type(value) is np.ndarray and value.dtype == self.dtype and value.shape == self.shape
        assert not Stream.recording, "a synchronous transfer in a capture"
        self.host[...] = value

    def __getattr__(self, name: str) -> Any:
        if name not in (
            "reshape", "ravel", "astype", "copy", "view", "sum", "mean", "min", "max", "all", "any",
            "argmax", "squeeze",
        ):  # fmt: skip
            raise AttributeError(name)
        method = getattr(self.host, name)
        return lambda *args, **kwargs: _wrapped(method(*_bare(args), **_bare(kwargs)))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _wrapped(getattr(ufunc, method)(*_bare(inputs), **_bare(kwargs)))

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        kwargs.pop("like", None)
        return _wrapped(function(*_bare(args), **_bare(kwargs)))


def _bare(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(_bare(each) for each in value)
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items()}
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_wrapped(each) for each in value)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    array = np.asarray(value)
    at = array.ctypes.data
    view = any(first <= at < first + size for first, (size, _) in _blocks.items())
    return ndarray(array) if view else asarray(array)


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    """Poisoned memory."""
    kind = np.dtype(dtype)
    sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    size = int(np.prod(sizes, dtype=np.int64)) * kind.itemsize
    return ndarray(_allocate(size).view(kind).reshape(sizes))


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """On the device."""
    if isinstance(value, ndarray):
        return value if dtype in (None, value.dtype) else value.astype(dtype)
    host = np.asarray(value, dtype)
    array = empty(host.shape, host.dtype)
    array.host[...] = host
    return array


class Stream:
    """Runs everything at once, unless it is recorded."""

    recording: list[Callable[[], None]] | None = None
    ptr = 7

    def __init__(self, non_blocking: bool = False) -> None:
        del non_blocking

    def record(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def wait_event(self, event: object) -> None:
        del event

    def synchronize(self) -> None: ...

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def begin_capture(self) -> None:
        if settings.refuse_capture:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted")
        Stream.recording = []

    def end_capture(self) -> Any:
        if Stream.recording is None:
            raise RuntimeError("no capture is under way")
        recorded, Stream.recording = Stream.recording, None
        return SimpleNamespace(launch=lambda stream=None: [work() for work in recorded])


def _do(work: Callable[[], None]) -> None:
    if Stream.recording is None:
        work()
    else:
        Stream.recording.append(work)


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


def _gemm(kind: Any) -> Callable[..., None]:
    itemsize = np.dtype(kind).itemsize

    def columns(
        at: int, m: int, n: int, ld: int, stride: int, count: int, inside: bool = True
    ) -> Any:
        """(count, m, n) by columns at an address."""
        assert ld >= m
        size = (((count - 1) * stride + (n - 1) * ld + m) * itemsize) if count * m * n else 0
        if inside:
            _require_inside(at, size)
        flat = np.frombuffer(memoryview((ctypes.c_char * size).from_address(at)), kind)
        strides = (stride * itemsize, itemsize, ld * itemsize)
        return np.lib.stride_tricks.as_strided(flat, (count, m, n), strides, writeable=True)

    def gemm(
        handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int,
        sa: int, B: int, ldb: int, sb: int, beta: int, C: int, ldc: int, sc: int, count: int,
    ) -> None:  # fmt: skip
        assert handle == 11
        a, b = (float(columns(p, 1, 1, 1, 1, 1, inside=False)[0, 0, 0]) for p in (alpha, beta))

        def work() -> None:
            left = columns(A, *((k, m) if ta else (m, k)), lda, sa, count)
            right = columns(B, *((n, k) if tb else (k, n)), ldb, sb, count)
            left, right = (np.swapaxes(x, 1, 2) if t else x for x, t in ((left, ta), (right, tb)))
            out = columns(C, m, n, ldc, sc, count)
            with np.errstate(all="ignore"):  # cuBLAS says nothing of NaN
                product = a * (left @ right)
            out[...] = product + b * out if b else product

        _do(work)

    return gemm


def _memset(address: int, value: int, size: int, stream: int) -> None:
    del stream
    _require_inside(address, size)
    _do(lambda: (ctypes.memset(address, value, size), None)[1])


class _Device:
    def __init__(self, number: int = 0) -> None:
        self.attributes = {
            "MultiProcessorCount": 3, "CooperativeLaunch": 1,
            "MaxSharedMemoryPerBlockOptin": 200 * 1024,
        }  # fmt: skip

    @property
    def mem_info(self) -> tuple[int, int]:
        return settings.free - settings.taken, settings.free

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: Any) -> None: ...


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
    module.zeros = lambda shape, dtype: asarray(np.zeros(shape, dtype))
    module.concatenate = lambda arrays, axis=0: asarray(np.concatenate(_bare(list(arrays)), axis))
    module.broadcast_to = lambda x, shape: ndarray(np.broadcast_to(x.host, shape))
    module.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)
    stream = Stream()
    module.cuda = SimpleNamespace(
        alloc_pinned_memory=lambda size: bytearray(size),
        Stream=Stream, Device=_Device, get_current_stream=lambda: stream,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, memsetAsync=_memset,
            getDeviceCount=lambda: 1, getDevice=lambda: 0,
        ),
        cublas=SimpleNamespace(
            create=lambda: 11, setMathMode=lambda handle, mode: None,
            sgemmStridedBatched=_gemm(np.float32), dgemmStridedBatched=_gemm(np.float64),
        ),
    )  # fmt: skip
    return module


cupy = _make()


@contextmanager
def installed(monkeypatch: Any) -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in, whose persistent kernel has 64 threads a block."""
    import sys

    from qgf_ref.backends.cupy import device, few_rows, sampler
    from qgf_ref.backends.engine import backend_named

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(few_rows, "THREADS", {4: 64, 8: 64})
    for name, value in (("order", None), ("refuse_capture", False), ("free", 1 << 33)):
        setattr(settings, name, value)
    settings.launches.clear()
    device._device.cache_clear()
    sampler.device_sampler.samplers.clear()
    sampler.device_sampler.networks.clear()
    backend_named.cache_clear()
    try:
        yield cupy
    finally:
        sampler.device_sampler.samplers.clear()
        sampler.device_sampler.networks.clear()
        backend_named.cache_clear()
        device._device.cache_clear()
