"""What holds for some networks of an agent only, as people type it and files hold it.

gelu                  of every network; the same as all=gelu
gelu,critic=relu      relu in the critic and its average, gelu in the others
critic,value          the networks that something holds for; all: every one; none: no one
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.errors import InputError, listing

ALL, NONE = "all", "none"


def values_by_network(text: str, what: str) -> dict[str, str]:
    """{"all": value, network: its own value, …}. Raises InputError on another form."""
    values: dict[str, str] = {}
    for entry in _entries(text):
        name, equals, value = entry.rpartition("=")
        name = (name if equals else ALL).strip()
        if not name or not value.strip() or name in values:
            raise InputError(
                f"{what} must be one value, or one for all and then those of single networks, such "
                f"as gelu,critic=relu; got {listing([text])}"
            )
        values[name] = value.strip()
    if ALL not in values:
        raise InputError(
            f"{what} {listing([text])} does not say what holds for the other networks: begin with "
            "it, as in gelu,critic=relu"
        )
    return values


def value_text(values: dict[str, str]) -> str:
    """How `values_by_network` is written: without what repeats the value of all."""
    own = [f"{n}={v}" for n, v in values.items() if n != ALL and v != values[ALL]]
    return ",".join([values[ALL], *own])


def network_names(value: Any, what: str) -> tuple[str, ...]:
    """The networks that something holds for. Raises InputError on another form.

    value  names with commas between them, or a list of them; true and "all": every network; false,
           None and "none"
    """
    if value is None or isinstance(value, bool | np.bool_):
        return (ALL,) if value else ()
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    if not isinstance(text, str):
        raise InputError(f"{what} must name networks, such as critic,value; got {value!r}")
    names = _entries(text)
    alone = {ALL, NONE} & set(names)
    if not all(names) or len(set(names)) < len(names) or (alone and len(names) > 1):
        raise InputError(
            f"{what} must name the networks that it holds for, such as critic,value, or be all or "
            f"none; got {listing([text])}"
        )
    return () if names == [NONE] else tuple(names)


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]
