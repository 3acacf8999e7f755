"""The stand-in's memory and arrays.

Arrays refuse what CuPy's refuse: to become NumPy arrays unasked, and to meet them. Memory that is
given out holds NaN, and has canaries around it that are looked at after every launch.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers.gpu import on_cpu

CANARY = 256
FUNCTIONS = {
    np.arange, np.argwhere, np.atleast_1d, np.clip, np.concatenate, np.empty_like, np.full_like,
    np.iscomplexobj, np.ones_like, np.repeat, np.split, np.stack, np.take_along_axis, np.tile,
    np.where, np.zeros_like,
}  # fmt: skip
"""Those asked for that CuPy 14.2 has, too, and takes its arrays for."""
_blocks: dict[int, tuple[int, weakref.ref[Any]]] = {}
"""Address → bytes, and who holds them."""
settings = SimpleNamespace(
    order=None, launches=[], free=1 << 33, refuse_capture=False, taken=0, recording=None
)
"""order: of threads, else each launch takes the next; launches: names of kernels, as they ran;
free: bytes in all, taken: of them; recording: what a capture has recorded, None without one."""


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


def require_inside(address: int, size: int) -> None:
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
        return ndarray(np.asarray(self.host[bare(index)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[bare(index)] = bare(value)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def get(self) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        assert not settings.recording, "a synchronous transfer in a capture"
        return self.host.copy()

    def set(self, value: np.ndarray[Any, Any], stream: Any = None) -> None:
        """From the host."""
        del stream
        assert type(value) is np.ndarray and value.dtype == self.dtype and value.shape == self.shape
        assert not settings.recording, "a synchronous transfer in a capture"
        self.host[...] = value

    def __getattr__(self, name: str) -> Any:
        if name not in (
            "reshape", "ravel", "astype", "copy", "view", "sum", "mean", "min", "max", "all", "any",
            "argmax", "argmin", "squeeze", "std", "swapaxes", "repeat",
        ):  # fmt: skip
            raise AttributeError(name)
        method = getattr(self.host, name)
        return lambda *args, **kwargs: _done(method, args, kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _done(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        kwargs.pop("like", None)
        if function not in FUNCTIONS:
            raise TypeError(f"no implementation found for 'numpy.{function.__name__}'")
        return _done(function, args, kwargs)


def _done(function: Any, args: Any, kwargs: Any) -> Any:
    with np.errstate(all="ignore"):  # a GPU says nothing of NaN
        return _wrapped(function(*bare(args), **bare(kwargs)))


def bare(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return (list if isinstance(value, list) else tuple)(bare(each) for each in value)
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items()}
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_wrapped(each) for each in value)
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
