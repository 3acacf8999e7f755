"""Tensors of a foreign file: flat names, and half-precision floats widened without a change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing

MOST_NODES = 100_000
MOST_AXES = 8
_LONGEST_NAME = 1000


@dataclass(frozen=True)
class TensorFile:
    """Named arrays of a file, the JSON of its options ("" if none), and what to tell the user.

    tensors   names with dots between their parts; floats are float32 or float64
    metadata  the strings in a safetensors header
    """

    tensors: dict[str, Array]
    options: str = ""
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def from_bfloat16(bits: Array) -> Array:
    """float32 values of bfloat16's upper 16 bits, exactly. bits: unsigned 16-bit integers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def filled(
    data: bytes | bytearray,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Literal["C", "F"] = "C",
) -> Array:
    """The array of `shape` whose values are `data`, which has just as many bytes."""
    array: Array = np.ndarray(shape, dtype, data, order=order)
    return array.astype(dtype.newbyteorder("="), copy=False)


def flatten(tree: Any, source: str) -> tuple[dict[str, Array], dict[str, str]]:
    """(arrays, strings) of nested dicts and lists, with dots between the parts of their names.

    Numbers and None are passed over, however many. Raises InputError on trees that are
    unreasonably large, and when two names become one.
    """
    arrays: dict[str, Array] = {}
    strings: dict[str, str] = {}
    todo, visited = [("", tree)], 0
    while todo:
        name, node = todo.pop()
        visited += 1
        if visited > MOST_NODES or len(name) > _LONGEST_NAME:
            raise InputError(f"{source} is refused: more than {MOST_NODES} values, or long names")
        if isinstance(node, dict | list):
            items: list[tuple[Any, Any]] = [
                (key, child)
                for key, child in (node.items() if isinstance(node, dict) else enumerate(node))
                if isinstance(child, dict | list | np.ndarray | str)
            ]
            if len(items) > MOST_NODES:
                raise InputError(f"{source} is refused: more than {MOST_NODES} values")
            todo += [(f"{name}.{key}" if name else str(key), child) for key, child in items[::-1]]
        elif name in arrays or name in strings:
            raise InputError(f"{source}: two values are called {listing([name])}")
        elif isinstance(node, np.ndarray):
            arrays[name] = node
        elif isinstance(node, str):
            strings[name] = node
    return arrays, strings


def tensor_file(arrays: dict[str, Array], options: str, source: str) -> TensorFile:
    """The arrays with float16 widened to float32; raises InputError on wider floats."""
    notes, widened = [], 0
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise InputError(f"{source}: {listing([name])} has dtype {array.dtype}; use float64")
        if array.dtype == np.float16:
            arrays[name] = array.astype(np.float32)
            widened += 1
    if widened:
        notes.append(f"{widened} float16 tensors became float32, exactly")
    return TensorFile(arrays, options, notes)


def with_bfloat16(file: TensorFile, count: int) -> TensorFile:
    """The file, with a note on how many of its tensors were bfloat16."""
    if count:
        file.notes.append(f"{count} bfloat16 tensors became float32, exactly")
    return file


def text_of(array: Array, where: str) -> str:
    """The string (of characters or of UTF-8) in an array without axes. Raises InputError."""
    try:
        if array.dtype.kind == "S":
            return str(array.item().decode())
        # numbers that are no characters make NumPy's own conversion a SystemError
        little = array.astype(array.dtype.newbyteorder("<"))
        return little.tobytes().decode("utf-32-le").rstrip("\0")
    except ValueError as error:
        raise InputError(f"{where} is no text: {error}") from error
