"""Read a pickle of nested dicts and arrays without running anything it names.

A pickle is a program: it may name any function and call it. Here every name resolves to an inert
stand-in of this module or to an error that states the name, so that the stream can build dicts,
lists, numbers, strings and arrays, and nothing else. JAX arrays come out as NumPy arrays; JAX is
not needed. Known streams: JAX 0.4 to 0.10, NumPy 1.x and 2.x, pickle protocols 2 to 5.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


class _Refused(Exception):
    """The stream asks for something outside the whitelist."""


class _Dtype:
    """Stand-in for a numpy.dtype under construction."""

    __slots__ = ("order", "spec")

    def __init__(self, spec: Any) -> None:
        if not isinstance(spec, str):
            raise _Refused(f"a dtype described by {type(spec).__name__}")
        self.spec, self.order = spec, "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise _Refused("a dtype with a state that NumPy does not write")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        try:
            dtype = np.dtype(self.spec).newbyteorder(">" if self.order == ">" else "<")
        except (TypeError, ValueError):
            raise _Refused(f"arrays of dtype {self.spec!r}") from None
        if dtype.kind not in "fiub":
            raise _Refused(
                f"arrays of dtype {self.spec!r} (only real numbers and booleans are read)"
            )
        return dtype


class _Array:
    """Stand-in for an array under construction."""

    __slots__ = ("value",)

    def __init__(self, value: Array | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array with a state that NumPy does not write")
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data: Any, dtype: Any, shape: Any, order: str) -> Array:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array that is not made of plain bytes and a dtype")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _Refused("an array with an invalid shape")
    resolved = dtype.resolve()
    if math.prod(shape) * resolved.itemsize != len(data):
        raise _Refused(f"an array of shape {shape} with {len(data)} bytes")
    flat = np.frombuffer(bytes(data), dtype=resolved).astype(resolved.newbyteorder("="))
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> _Array:
    return _Array(_build(data, dtype, (), "C"))


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_build(data, dtype, shape, order))


def _empty_array(cls: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _jax_array(function: Any, args: Any, state: Any, aval: Any) -> _Array:
    if not (isinstance(function, _Name) and isinstance(args, tuple)):
        raise _Refused("a JAX array that is not built from a NumPy array")
    array = function(*args)
    if not isinstance(array, _Array):
        raise _Refused("a JAX array that is not built from a NumPy array")
    array.__setstate__(state)
    return array


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("_codecs.encode other than to latin1")
    return text.encode("latin1")


def _mapping(*args: Any) -> dict[Any, Any]:
    if len(args) > 1 or (args and not isinstance(args[0], dict | list)):
        raise _Refused("a mapping that is not built from a dict")
    return dict(*args)


def _dtype(spec: Any, *flags: Any) -> _Dtype:
    return _Dtype(spec)


def _not_callable(*args: Any) -> None:
    raise _Refused("a call of numpy.ndarray")


class _Name:
    """What a whitelisted name resolves to: callable, and closed to changes by the stream."""

    __slots__ = ("_call", "_name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self._name, self._call = name, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"a change of {self._name}")


_WHITELIST: dict[str, Callable[..., Any]] = {
    "jax._src.array._reconstruct_array": _jax_array,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _not_callable,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": _mapping,
    "flax.core.frozen_dict.FrozenDict": _mapping,
}
for _core in ("numpy.core", "numpy._core"):
    _WHITELIST[f"{_core}.multiarray._reconstruct"] = _empty_array
    _WHITELIST[f"{_core}.multiarray.scalar"] = _scalar
    _WHITELIST[f"{_core}.numeric._frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _WHITELIST:
            raise _Refused(f"the name {full!r}")
        return _Name(full, _WHITELIST[full])

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent id")


_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def read_pickle(path: Path) -> Any:
    """The nested dicts, lists, numbers and NumPy arrays of the pickle at `path`.

    Raises InputError when the stream names anything outside the whitelist (stating what), when it
    is truncated or malformed, or when the file cannot be read. Nothing in the stream is executed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _plain(_Unpickler(io.BytesIO(data)).load())
    except _Refused as refused:
        raise InputError(
            f"{path} is refused: it contains {refused}, which an array file does not need. "
            "Nothing in it was executed. If you trust the file, convert it to .npz or .safetensors "
            "with the framework that wrote it."
        ) from refused
    except _MALFORMED as error:
        detail = f"{type(error).__name__}: {error}".rstrip(": ")
        raise InputError(
            f"{path} is not a readable pickle: truncated or corrupt ({detail})"
        ) from error


def _plain(node: Any, depth: int = 0) -> Any:
    if depth > 64:
        raise _Refused("nesting deeper than 64 levels")
    if isinstance(node, _Array):
        if node.value is None:
            raise _Refused("an array without contents")
        return node.value
    if isinstance(node, dict):
        return {k: _plain(v, depth + 1) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(v, depth + 1) for v in node]
    if isinstance(node, _Name | _Dtype):
        raise _Refused("a bare type or function as a value")
    return node
