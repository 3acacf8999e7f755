"""Settings as frozen dataclasses, from which flags and JSON are made; an agent's own among them."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from qgf_ref.errors import InputError, unknown_name

S = TypeVar("S", bound="OwnSettings")


def setting(default: Any, about: str) -> Any:
    """A field of such a dataclass; `about` is the command line's help."""
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True)
class OwnSettings:
    """What of one agent can be set and of others cannot. A subclass's fields are `setting`s.

    Files hold them with a checkpoint's options, under the same names. Raises InputError on a value
    of another type.
    """

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        for each in fields(self):
            value = coerced(each.name, getattr(self, each.name), kinds[each.name])
            object.__setattr__(self, each.name, value)

    def changed(self: S, changes: Mapping[str, Any]) -> S:
        """The same with some changed. Raises InputError, listing the names, on one that is none."""
        for name in changes:
            if name not in vars(self):
                raise unknown_name("setting", name, vars(self))
        return replace(self, **changes)


_kinds: dict[type, dict[str, Any]] = {}


def kinds_of(settings: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name; evaluated once, as that takes a millisecond."""
    if settings not in _kinds:
        _kinds[settings] = get_type_hints(settings)
    return _kinds[settings]


def coerced(name: str, value: Any, kind: Any) -> Any:
    """`value` if it is of `kind` (an int serves as a float, a list as a tuple).

    Raises InputError on another one.
    """
    if get_origin(kind) is types.UnionType:
        inner, _ = get_args(kind)
        return None if value is None else coerced(name, value, inner)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown_name(name, value, get_args(kind))
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list of integers, got {value!r}")
        return tuple(coerced(name, v, int) for v in value)
    kind = get_origin(kind) or kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"{name} must be of type {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value}")
    return value
