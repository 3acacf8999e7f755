"""Read a pickle of nested dicts and arrays without running anything it names.

A pickle is a program for a stack machine that may name any function and call it. This is a machine
of our own for the part of that language which data needs. Names resolve to inert stand-ins or are
refused by name; keys are strings; work and memory are bounded by the size of the file. JAX arrays
come out as NumPy arrays, and JAX is not needed. Known streams: JAX 0.4 to 0.10, NumPy 1.x and 2.x,
pickle protocols 2 to 5.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing

MAX_DEPTH = 64
_MARK = object()


class _Refused(Exception):
    """The stream asks for something that an array file does not need."""


class _Name:
    """What a whitelisted name resolves to."""

    def __init__(self, full: str) -> None:
        self.full = full


class _Dtype:
    """A numpy.dtype under construction."""

    def __init__(self, spec: Any) -> None:
        if not isinstance(spec, str):
            raise _Refused(f"a dtype described by {type(spec).__name__}")
        self.spec, self.order = spec, "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise _Refused("a dtype with a state that NumPy does not write")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        try:
            dtype = np.dtype(self.spec).newbyteorder(">" if self.order == ">" else "<")
        except (TypeError, ValueError):
            raise _Refused(f"arrays of dtype {listing([self.spec])}") from None
        if dtype.kind not in "fiub":
            raise _Refused(f"arrays of dtype {listing([self.spec])} (only real numbers are read)")
        return dtype


class _Array:
    """An array under construction."""

    def __init__(self, value: Array | None = None) -> None:
        self.value = value

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array with a state that NumPy does not write")
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array that is not made of plain bytes and a dtype")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _Refused("an array with an invalid shape")
    resolved = dtype.resolve()
    if len(shape) > 8 or math.prod(shape) * resolved.itemsize != len(data):
        raise _Refused(f"an array of shape {shape[:8]} with {len(data)} bytes")
    flat = np.frombuffer(data, dtype=resolved)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _dtype(spec: Any = None, *flags: Any) -> _Dtype:
    return _Dtype(spec)


def _empty_array(*args: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any = None, data: Any = None) -> _Array:
    return _Array(_build(data, dtype, (), "C"))


def _from_buffer(
    data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C"
) -> _Array:
    return _Array(_build(data, dtype, shape, order))


def _jax_array(function: Any = None, args: Any = None, state: Any = None, *aval: Any) -> _Array:
    if not isinstance(function, _Name) or "_reconstruct" not in function.full:
        raise _Refused("a JAX array that is not built from a NumPy array")
    array = _Array()
    array.set_state(state)
    return array


def _latin1(text: Any = None, encoding: Any = None) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("_codecs.encode other than to latin1")
    return text.encode("latin1")


def _mapping(content: Any = None) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _Refused("a mapping that is not built from a dict")
    return content


_WHITELIST: dict[str, Callable[..., Any] | None] = {
    "jax._src.array._reconstruct_array": _jax_array,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": _mapping,
    "flax.core.frozen_dict.FrozenDict": _mapping,
}
for _core in ("numpy.core", "numpy._core"):
    _WHITELIST[f"{_core}.multiarray._reconstruct"] = _empty_array
    _WHITELIST[f"{_core}.multiarray.scalar"] = _scalar
    _WHITELIST[f"{_core}.numeric._frombuffer"] = _from_buffer


# fmt: off
_PUSH_ARGUMENT = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))
# fmt: on
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


class _Machine:
    """The stack machine: one method for each kind of opcode, and nothing else is understood."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = 2 * size + 4096  # legitimate arrays stand in the file byte for byte

    def run(self, data: bytes) -> Any:
        for opcode, arg, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                if len(self.stack) != 1:
                    raise ValueError("the stream ends with values left over")
                return self.stack.pop()
            self.step(name, arg)
        raise ValueError("the stream does not end")

    def step(self, name: str, arg: Any) -> None:
        push = self.stack.append
        if name in _PUSH_ARGUMENT:
            push(arg)
        elif name in _PUSH_NEW:
            push(_PUSH_NEW[name]())
        elif name in ("PROTO", "FRAME"):
            return
        elif name == "TUPLE":
            push(tuple(self.to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self.pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            self.extend(self.pop(1) if name == "APPEND" else self.to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.pop(2) if name == "SETITEM" else self.to_mark())
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            push(self.name(*(arg.split(" ", 1) if name == "GLOBAL" else self.pop(2))))
        elif name == "REDUCE":
            push(self.call(*self.pop(2)))
        elif name == "BUILD":
            self.build(self.pop(1)[0])
        else:
            raise _Refused(f"the pickle instruction {name}")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("a value is missing on the stack")
        return self.stack[-1]

    def pop(self, count: int) -> list[Any]:
        taken = [self.stack.pop() for _ in range(count) if self.top() is not _MARK]
        return taken[::-1]

    def to_mark(self) -> list[Any]:
        taken = []
        while self.stack[-1] is not _MARK:
            taken.append(self.stack.pop())
        self.stack.pop()
        return taken[::-1]

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError("values appended to what is no list")
        target.extend(values)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items set on what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise _Refused(f"a dict with a key of type {type(key).__name__}")
            target[key] = value

    def name(self, module: Any, attribute: Any) -> _Name:
        full = f"{module}.{attribute}"
        if not (isinstance(module, str) and isinstance(attribute, str)) or full not in _WHITELIST:
            raise _Refused(f"the name {listing([full])}")
        return _Name(full)

    def call(self, function: Any, args: Any) -> Any:
        call = _WHITELIST.get(function.full) if isinstance(function, _Name) else None
        if call is None or type(args) is not tuple:
            shown = function.full if isinstance(function, _Name) else type(function).__name__
            raise _Refused(f"a call of {shown}")
        try:
            result = call(*args)
        except TypeError:
            raise _Refused(f"a call of {function.full} that its library does not make") from None
        self.charge(result)
        return result

    def build(self, state: Any) -> None:
        target = self.top()
        if not isinstance(target, _Array | _Dtype):
            shown = target.full if isinstance(target, _Name) else type(target).__name__
            raise _Refused(f"a change of {shown}")
        target.set_state(state)
        self.charge(target)

    def charge(self, built: Any) -> None:
        if isinstance(built, _Array) and built.value is not None:
            self.bytes_left -= built.value.nbytes
        if self.bytes_left < 0:
            raise _Refused("more bytes of arrays than the file has")


_MALFORMED = (ValueError, LookupError, UnicodeError, OverflowError, MemoryError)


def read_pickle(path: Path) -> Any:
    """The nested dicts, lists, numbers and NumPy arrays of the pickle at `path`.

    Raises InputError when the stream contains anything else (stating what), when it is truncated
    or malformed, or when the file cannot be read. Nothing in the stream is executed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _Plain().convert(_Machine(len(data)).run(data), 0)
    except _Refused as refused:
        raise InputError(
            f"{path} is refused: it contains {refused}, which an array file does not need. "
            "Nothing in it was executed. If you trust the file, convert it to .npz or .safetensors "
            "with the framework that wrote it."
        ) from refused
    except _MALFORMED as error:
        detail = listing([f"{type(error).__name__}: {error}"])
        raise InputError(
            f"{path} is no readable pickle: truncated or corrupt ({detail})"
        ) from error


class _Plain:
    """Stand-ins replaced by what they stand for; a node that occurs often is converted once."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def convert(self, node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _Refused(f"values nested more than {MAX_DEPTH} deep")
        if isinstance(node, _Name | _Dtype):
            raise _Refused("a bare type or function as a value")
        if isinstance(node, _Array):
            if node.value is None:
                raise _Refused("an array without contents")
            return node.value.astype(node.value.dtype.newbyteorder("="), copy=False)
        if not isinstance(node, dict | list | tuple):
            return node
        if id(node) not in self.done:
            self.done[id(node)] = None  # a cycle ends here, as None
            if isinstance(node, dict):
                plain: Any = {k: self.convert(v, depth + 1) for k, v in node.items()}
            else:
                plain = [self.convert(v, depth + 1) for v in node]
            self.done[id(node)] = plain
        return self.done[id(node)]
