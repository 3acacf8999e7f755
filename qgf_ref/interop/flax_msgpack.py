"""Flax's msgpack files (`flax.serialization.to_bytes`), read and written without flax.

MessagePack is read by a decoder of our own, which needs no dependency and, unlike a general one,
allocates nothing on the word of a header. Flax adds extension types: 1 is an array, as a msgpack
(shape, dtype name, bytes); 3 a NumPy scalar, likewise; 2 a complex number (refused). An array of
more than 2³⁰ bytes is a map with `__msgpack_chunked_array__`, `shape` and `chunks`.

Written files have the official code's trees of parameters, the critic's with the ensemble axis in
front, and the options as JSON in a string `options`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.files import write_atomically
from qgf_ref.interop.format import Format, Written, stated
from qgf_ref.interop.real_tensors import (
    MOST_AXES,
    TensorFile,
    filled,
    flatten,
    from_bfloat16,
    tensor_file,
    with_bfloat16,
)
from qgf_ref.nets.mlp import MLPParams

_MAX_DEPTH = 64
_MOST_VALUES = 1_000_000
_CHUNKED = "__msgpack_chunked_array__"
_MOST_BYTES = 2**30
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
# fmt: off
_DTYPES = frozenset((
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
))
# fmt: on

# first byte: (how the length or the value that follows is packed, what it is)
_FIXED = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZED = {
    0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
    0xC7: (">B", "ext"), 0xC8: (">H", "ext"), 0xC9: (">I", "ext"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "array"), 0xDD: (">I", "array"), 0xDE: (">H", "map"), 0xDF: (">I", "map"),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Malformed(Exception):
    """The bytes are no MessagePack that flax writes."""


def read_msgpack(path: Path) -> TensorFile:
    """The arrays of the file, with dots between the keys; options from a string `options`.

    bfloat16 comes out as float32, exactly. Raises InputError on a file that is truncated, damaged,
    or holds what flax does not write for real numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    decoder = _Decoder(data)
    try:
        tree = decoder.value(0)
        if decoder.at != len(data):
            raise _Malformed(f"{len(data) - decoder.at} bytes follow the end")
    except (_Malformed, ValueError, OverflowError) as error:
        raise InputError(f"{path} is no readable flax msgpack: {_printable(str(error))}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold a map of arrays, got {type(tree).__name__}")
    arrays, strings = flatten(tree, str(path))
    file = tensor_file(arrays, strings.get("options", ""), str(path))
    return with_bfloat16(file, decoder.bfloat16)


class _Decoder:
    """One pass over the bytes; every value takes at least one of them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.count, self.bfloat16 = data, 0, 0, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _Malformed("truncated or corrupt (a length reaches beyond its end)")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        self.count += 1
        if depth > _MAX_DEPTH or self.count > _MOST_VALUES:
            raise _Malformed("nested too deep, or too many values")
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0xC0:
            kind, size = (
                ("map", first & 15) if first < 0x90
                else ("array", first & 15) if first < 0xA0
                else ("str", first & 31)
            )  # fmt: skip
            return self.sized(kind, size, depth)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _FIXED:
            return self.number(_FIXED[first])
        if first in _SIZED:
            form, kind = _SIZED[first]
            return self.sized(kind, self.number(form), depth)
        if 0xD4 <= first <= 0xD8:
            return self.sized("ext", 1 << (first - 0xD4), depth)
        raise _Malformed(f"corrupt (the byte {first:#x} begins no value)")

    def sized(self, kind: str, size: int, depth: int) -> Any:
        if kind == "str":
            return self.take(size).decode()
        if kind == "bin":
            return self.take(size)
        if kind == "ext":
            return self.extension(self.number(">b"), self.take(size), depth)
        if kind == "array":
            return [self.value(depth + 1) for _ in range(size)]
        found: dict[str | int, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if type(key) not in (str, int) or key in found:
                raise _Malformed("a map with a key that is no string or integer, or occurs twice")
            found[key] = self.value(depth + 1)
        return _joined(found) if _CHUNKED in found else found

    def extension(self, code: int, data: bytes, depth: int) -> Array:
        if code not in (_ARRAY, _SCALAR):
            what = "complex numbers" if code == _COMPLEX else f"the extension type {code}"
            raise _Malformed(f"it contains {what}, which weights do not need")
        inner = _Decoder(data)
        inner.count = self.count
        content = inner.value(depth + 1)
        self.count = inner.count
        match content:
            case [list(shape), str(name), bytes(raw)] if inner.at == len(data):
                pass
            case _:
                raise _Malformed("corrupt (an array that is no shape, dtype and bytes)")
        bfloat16 = name == "bfloat16"
        if not bfloat16 and name not in _DTYPES:
            raise _Malformed(f"an array of dtype {listing([name])}; only real numbers are read")
        dtype = np.dtype("<u2" if bfloat16 else name).newbyteorder("<")
        sizes = _shape(shape)
        if math.prod(sizes) * dtype.itemsize != len(raw):
            raise _Malformed(f"corrupt (an array of shape {sizes} with {len(raw)} bytes)")
        self.bfloat16 += bfloat16
        array = filled(raw, dtype, sizes)
        return from_bfloat16(array) if bfloat16 else array


def _shape(sizes: list[Any]) -> tuple[int, ...]:
    if len(sizes) > MOST_AXES or not all(type(n) is int and n >= 0 for n in sizes):
        raise _Malformed("corrupt (an array with an invalid shape)")
    return tuple(sizes)


def _in_order(node: Any) -> list[Any]:
    """The values of flax's {"0": …, "1": …}."""
    if not isinstance(node, dict) or any(str(i) not in node for i in range(len(node))):
        raise _Malformed("corrupt (a chunked array without numbered parts)")
    return [node[str(i)] for i in range(len(node))]


def _joined(node: dict[str | int, Any]) -> Array:
    chunks = _in_order(node.get("chunks"))
    shape = _shape(_in_order(node.get("shape")))
    if not chunks or not all(isinstance(c, np.ndarray) and c.ndim == 1 for c in chunks):
        raise _Malformed("corrupt (chunks that are no flat arrays)")
    if len({c.dtype for c in chunks}) != 1 or sum(c.size for c in chunks) != math.prod(shape):
        raise _Malformed(f"corrupt (chunks that do not make an array of shape {shape})")
    return np.concatenate(chunks).reshape(shape)


def msgpack_bytes(tree: Mapping[str, Any]) -> bytes:
    """`tree` of dicts, strings and arrays as `flax.serialization.msgpack_restore` reads it.

    Raises InputError on an array of more than 2³⁰ bytes, which flax would cut into chunks.
    """
    return _packed(tree)


def _packed(node: Any) -> bytes:
    if isinstance(node, Mapping):
        return _sized("map", len(node)) + b"".join(
            _packed(key) + _packed(child) for key, child in node.items()
        )
    if isinstance(node, str):
        data = node.encode()
        return _sized("str", len(data)) + data
    array = np.asarray(node)
    if array.nbytes > _MOST_BYTES:
        raise InputError(f"an array of {array.nbytes} bytes is too large for one msgpack array")
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    shape = _sized("array", array.ndim) + b"".join(
        b"\xce" + struct.pack(">I", n) for n in array.shape
    )
    body = b"\x93" + shape + _packed(array.dtype.name) + _sized("bin", len(raw)) + raw
    return _sized("ext", len(body)) + struct.pack(">b", _ARRAY) + body


def _sized(kind: str, size: int) -> bytes:
    """The widest form for every length: readers take any."""
    first = {"bin": 0xC6, "ext": 0xC9, "str": 0xDB, "array": 0xDD, "map": 0xDF}[kind]
    return bytes([first]) + struct.pack(">I", size)


def _printable(text: str) -> str:
    text = text[:200]
    return text if text.isprintable() else ascii(text)


def _names(network: str, params: MLPParams) -> Iterator[Written]:
    """policy/MLP_0/Dense_0/kernel, policy/Dense_0/kernel (output); critic/value_net/Dense_0/…

    Other flow actors (actor_…, target_actor_…) as the policy.
    """
    last = len(params.layers) - 1
    for own, array in params.named():
        if params.encoder is not None:  # a diffusion policy
            yield Written(f"{network}.{own}", f"{network}/{_of_diffusion(own)}", array)
            continue
        _, layer, part = own.split(".")
        module = "LayerNorm" if part in ("scale", "offset") else "Dense"
        place = f"value_net/{module}_{layer}"
        if network == "policy" or "actor_" in network:
            place = "Dense_0" if int(layer) == last else f"MLP_0/{module}_{layer}"
        leaf = "bias" if part == "offset" else part
        yield Written(f"{network}.{own}", f"{network}/{place}/{leaf}", array)


def _of_diffusion(own: str) -> str:
    """FourierFeatures_0/kernel, MLP_0/Dense_0/kernel (the encoder's), MLP_1/Dense_0/kernel."""
    if own == "encoder.table":
        return "FourierFeatures_0/kernel"
    *_, layer, part = own.split(".")
    return f"MLP_{0 if own.startswith('encoder.') else 1}/Dense_{layer}/{part}"


def _nested(flat: Mapping[str, Array]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _write(path: Path, tensors: Sequence[Written], checkpoint: Checkpoint) -> None:
    options = stated(checkpoint)
    tree = _nested({w.name: w.array for w in tensors})
    write_atomically(path, msgpack_bytes({**tree, "options": options}))


def _resembles(start: bytes) -> bool:
    """A map whose first key is a string."""
    first = start[:1]
    at = {b"\xde": 3, b"\xdf": 5}.get(first, 1 if b"\x80" < first < b"\x90" else 0)
    key = start[at : at + 1]
    return at > 0 and (b"\xa0" <= key < b"\xc0" or key in (b"\xd9", b"\xda", b"\xdb"))


FLAX = Format(
    "flax",
    (".msgpack",),
    read_msgpack,
    resembles=_resembles,
    names=_names,
    write=_write,
    next_step="next: flax.serialization.msgpack_restore(open(F, 'rb').read())['policy'] …",
)
