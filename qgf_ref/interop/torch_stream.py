"""What the names and storages in a PyTorch file stand for: tensors, or nothing that is needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.interop.pickle_names import (
    WHITELIST,
    ArrayStandIn,
    Inert,
    Name,
    PassedOver,
    Refused,
    passed_over,
)
from qgf_ref.interop.real_tensors import from_bfloat16
from qgf_ref.interop.unpickle import Dialect

_STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}


class _Storage(Inert):
    """A storage's values, as a flat array."""

    def __init__(self, values: Array) -> None:
        self.values = values


class Storages:
    """The storages of a file, each read once."""

    def __init__(self, members: Mapping[str, bytes], root: str, order: Literal["<", ">"]) -> None:
        self.members, self.root, self.order = members, root, order
        self.known: dict[tuple[str, str], _Storage] = {}

    def find(self, name: Any) -> _Storage | PassedOver:
        """The storage of a persistent id ("storage", type, key, device, number of values)."""
        match name:
            case ("storage", PassedOver(), *_):
                return PassedOver()
            case ("storage", Name(full=kind), str(key), _, int(count)) if kind in _STORAGES:
                pass
            case _:
                raise Refused("a persistent id that is no tensor storage")
        if (kind, key) not in self.known:
            self.known[kind, key] = _Storage(self.read(kind, key, count))
        return self.known[kind, key]

    def read(self, kind: str, key: str, count: int) -> Array:
        """The `count` values of the storage; raises Refused when the file has another number."""
        data = self.members.get(f"{self.root}data/{key}")
        dtype = np.dtype(_STORAGES[kind]).newbyteorder(self.order)
        if data is None or len(data) != count * dtype.itemsize:
            held = "nothing" if data is None else f"{len(data)} bytes"
            raise Refused(f"a storage of {count} × {dtype.itemsize} bytes for which it has {held}")
        if kind == "torch.BoolStorage":
            return np.frombuffer(data, np.uint8) != 0
        values = np.frombuffer(data, dtype)
        return from_bfloat16(values) if kind == "torch.BFloat16Storage" else values


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _tensor(
    storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None, *rest: Any
) -> ArrayStandIn | PassedOver:
    if isinstance(storage, PassedOver):
        return storage
    if not isinstance(storage, _Storage) or not _natural(offset):
        raise Refused("a tensor that is not made of a storage and an offset")
    for sizes in (shape, strides):
        if type(sizes) is not tuple or len(sizes) > 8 or not all(map(_natural, sizes)):
            raise Refused("a tensor with an invalid shape or strides")
    values = storage.values
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=False))
    empty = math.prod(shape) == 0
    if len(shape) != len(strides) or (last >= len(values) and not empty):
        raise Refused(f"a tensor of shape {shape} that does not fit its storage")
    if empty:
        return ArrayStandIn(np.zeros(shape, values.dtype))
    # a view: what strides of 0 repeat is charged before it is copied
    view = np.lib.stride_tricks.as_strided(
        values[offset:], shape, [s * values.itemsize for s in strides], writeable=False
    )
    return ArrayStandIn(view)


def _parameter(data: Any = None, *rest: Any) -> ArrayStandIn | PassedOver:
    if not isinstance(data, ArrayStandIn | PassedOver):
        raise Refused("a parameter that is not made of a tensor")
    return data


def _of_a_class(function: Any = None, kind: Any = None, args: Any = None, *rest: Any) -> Any:
    """A tensor of a subclass, or with attributes: as if it were a plain one."""
    call = _NAMES.get(function.full) if isinstance(function, Name) else None
    if isinstance(function, PassedOver):
        return PassedOver()
    if call is None or call is _of_a_class or type(args) is not tuple:
        raise Refused("a tensor of a class that is not made as PyTorch makes it")
    return call(*args)


_NAMES: dict[str, Callable[..., Any] | None] = {
    **WHITELIST,
    "torch._tensor._rebuild_from_type_v2": _of_a_class,
    **dict.fromkeys(_STORAGES),
}
_REBUILDERS: dict[str, Callable[..., Any]] = {
    "tensor": _tensor,
    "tensor_v2": _tensor,
    "parameter": _parameter,
    "parameter_with_state": _parameter,
    "device_tensor_from_numpy": _parameter,
    "device_tensor_from_cpu_tensor": _parameter,
}
_NAMES |= {f"torch._utils._rebuild_{name}": make for name, make in _REBUILDERS.items()}

_INERT = re.compile(
    r"torch\.(Size|Tensor|device|bool|b?float\w+|u?int\d+|complex\d+|q\w+|bits\w+|per_\w+)"
    r"|torch\.((cuda|sparse|cuda\.sparse|xpu|mps)\.)?[A-Z]\w*(Tensor|Storage)"
    r"|torch\.storage\.\w+Storage|torch\.nn\.parameter\.\w+|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(qtensor|tensor_v3|sparse_tensor|meta_tensor_no_storage"
    r"|nested_tensor|wrapper_subclass)"
)
"""The names that `torch.load(…, weights_only=True)` takes beside _NAMES."""
_WAY_OUT = (
    "with PyTorch: m = torch.load(F, map_location='cpu', weights_only=False); "
    "torch.save(m.state_dict(), G), m being the module, or its entry in F"
)


def _passed_over(name: str) -> bool:
    return _INERT.fullmatch(name) is not None or passed_over(name)


def dialect(storages: Storages) -> Dialect:
    """What the stream of a file with these storages may contain."""
    return Dialect(_NAMES, storages.find, True, _passed_over, _WAY_OUT)
