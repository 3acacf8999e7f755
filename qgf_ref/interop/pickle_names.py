"""What the names in a pickle resolve to: inert stand-ins for arrays, dtypes and mappings.

A name that is not in WHITELIST is refused. The stand-ins check every argument, because a stream
may call them with anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import listing
from qgf_ref.interop.real_tensors import from_bfloat16

_REAL = "fiub"
_BFLOAT16 = "ml_dtypes.bfloat16"


class Refused(Exception):
    """The stream asks for something that an array file does not need."""


class Inert:
    """What stands for something that is not a value by itself: a name, a dtype, a storage."""


class Name(Inert):
    """What a whitelisted name resolves to."""

    def __init__(self, full: str) -> None:
        self.full = full


class PassedOver(Inert):
    """What is known to be no weight: generators, devices, an optimizer's classes. It stays empty,
    whatever a stream calls it with or puts into it.
    """


class DtypeStandIn(Inert):
    """A numpy.dtype under construction."""

    def __init__(self, spec: Any) -> None:
        self.bfloat16 = isinstance(spec, Name) and spec.full == _BFLOAT16
        if not isinstance(spec, str) and not self.bfloat16:
            raise Refused(f"a dtype described by {type(spec).__name__}")
        self.spec, self.order = "u2" if self.bfloat16 else spec, "<"

    def set_state(self, state: Any) -> None:
        """Take the byte order, and ignore the rest."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise Refused("a dtype with a state that NumPy does not write")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        """The dtype, if it is of numbers, text or times; of bfloat16, that of its bits."""
        try:
            dtype = np.dtype(self.spec).newbyteorder(">" if self.order == ">" else "<")
        except (TypeError, ValueError):
            raise Refused(f"arrays of dtype {listing([self.spec])}") from None
        if dtype.kind not in _REAL + "USMm":
            raise Refused(f"arrays of dtype {listing([self.spec])} (only real numbers are read)")
        return dtype


class ArrayStandIn:
    """An array under construction."""

    def __init__(self, value: Array | None = None) -> None:
        self.value = value
        self.text = False

    @classmethod
    def of(cls, data: Any, dtype: Any, shape: Any, order: Any) -> ArrayStandIn:
        """The array of these bytes, dtype, shape and order."""
        array = cls()
        array.set_state((1, shape, dtype, order == "F", data))
        return array

    def set_state(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array with a state that NumPy does not write")
        _, shape, dtype, fortran, data = state
        value = _build(data, dtype, shape, "F" if fortran else "C")
        self.text = value.dtype.kind not in _REAL  # text or times: no weights
        self.value = None if self.text else value


def _build(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if not isinstance(dtype, DtypeStandIn) or not isinstance(data, bytes | bytearray):
        raise Refused("an array that is not made of plain bytes and a dtype")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("an array with an invalid shape")
    resolved = dtype.resolve()
    if len(shape) > 8 or math.prod(shape) * resolved.itemsize != len(data):
        raise Refused(f"an array of shape {shape[:8]} with {len(data)} bytes")
    if resolved.kind not in _REAL:
        return np.zeros(0, resolved)
    flat = np.frombuffer(data, dtype=resolved)
    array = flat.reshape(shape, order="F" if order == "F" else "C")
    return from_bfloat16(array) if dtype.bfloat16 else array


def _dtype(spec: Any = None, *flags: Any) -> DtypeStandIn:
    return DtypeStandIn(spec)


def _empty_array(*args: Any) -> ArrayStandIn:
    return ArrayStandIn()


def _scalar(dtype: Any = None, data: Any = None) -> ArrayStandIn:
    return ArrayStandIn.of(data, dtype, (), "C")


def _from_buffer(
    data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C"
) -> ArrayStandIn:
    return ArrayStandIn.of(data, dtype, shape, order)


def _jax_array(
    function: Any = None, args: Any = None, state: Any = None, *aval: Any
) -> ArrayStandIn:
    if not isinstance(function, Name) or "_reconstruct" not in function.full:
        raise Refused("a JAX array that is not built from a NumPy array")
    array = ArrayStandIn()
    array.set_state(state)
    return array


def _latin1(text: Any = None, encoding: Any = None) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("_codecs.encode other than to latin1")
    return text.encode("latin1")


def _mapping(content: Any = None) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Refused("a mapping that is not built from a dict")
    return content


Names = Mapping[str, Callable[..., Any] | None]
"""What each name that may occur resolves to when it is called; None where it must not be."""

WHITELIST: dict[str, Callable[..., Any] | None] = {
    "jax._src.array._reconstruct_array": _jax_array,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    _BFLOAT16: None,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": _mapping,
    "flax.core.frozen_dict.FrozenDict": _mapping,
}
for _core in ("numpy.core", "numpy._core"):
    WHITELIST[f"{_core}.multiarray._reconstruct"] = _empty_array
    WHITELIST[f"{_core}.multiarray.scalar"] = _scalar
    WHITELIST[f"{_core}.numeric._frombuffer"] = _from_buffer


_INERT = re.compile(
    r"(builtins|__builtin__)\.(set|frozenset|bytearray|complex)|collections\.Counter"
    r"|(jax\._src\.random|jax\._src\.prng|numpy\.random|optax)\..*"
)


def passed_over(name: str) -> bool:
    """Whether a name is of a collection, a generator's or an optimizer's state: no weights."""
    return _INERT.fullmatch(name) is not None
