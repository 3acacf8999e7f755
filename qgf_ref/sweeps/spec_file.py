"""Reading a spec from its TOML file, and saying what is wrong with it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_ref.agents.registry import agent_named
from qgf_ref.data.tasks import is_dataset_name
from qgf_ref.errors import InputError, reason, unknown_name
from qgf_ref.file_kinds import require_text
from qgf_ref.files import user_path
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.spec import SweepSpec

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def read_spec(path: Path) -> SweepSpec:
    """The spec in a TOML file. Raises InputError on what is no TOML and on unknown keys."""
    path = user_path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    require_text(data, path)
    try:
        # whatever mark of the byte order an editor writes
        return spec_of(parsed(data.decode(json.detect_encoding(data))))
    except UnicodeError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parsed(text: str) -> dict[str, Any]:
    """A TOML text as a dict. Raises InputError on what is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"no TOML: {error}") from error
    return content


def spec_of(content: Mapping[str, Any]) -> SweepSpec:
    """The spec of a parsed file. Raises InputError on an unknown key or a value of another type."""
    tables = ("train", "evaluate", "agents", "collect", "extra", "cluster")
    _known("key", content, ("tasks", "seeds", "baseline", *tables))
    of = {name: _table(content, name) for name in tables}
    for name, episodes in of["collect"].items():
        if not is_dataset_name(name):
            raise InputError(f"collect: {name!r} names no OGBench data set, e.g. scene-play-v0")
        _number(f"collect.{name}", episodes)
    _typed("extra", of["extra"], {"updates": int, "batch": int, "learning_rate": float,
                                  "hidden": list})  # fmt: skip
    if "hidden" in of["extra"]:
        of["extra"]["hidden"] = _numbers("extra.hidden", of["extra"]["hidden"])
    played = dict(of["evaluate"])
    whole = ("selection_episodes", "episodes", "seed", "envs")
    _typed("evaluate", played, {"weights": list, "backend": str, **dict.fromkeys(whole, int)})
    if "weights" in played:
        played["weights"] = _floats("evaluate.weights", played["weights"])
    entries = tuple(_entry(name, table) for name, table in of["agents"].items())
    return SweepSpec(
        _strings("tasks", content.get("tasks", [])),
        _numbers("seeds", content.get("seeds", [0])),
        entries,
        of["train"],
        played,
        of["collect"],
        of["extra"],
        str(content.get("baseline", "qgf")),
        of["cluster"],
    )


def _entry(name: str, table: Any) -> SpecEntry:
    where = f"agents.{name}"
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table, got {table!r}")
    if not _WORD.fullmatch(name):
        raise InputError(f"{where}: a name is letters, digits, _ . + and -, as it names files")
    keys = (
        "agent", "train", "try", "try_seeds", "try_by", "methods", "weights", "extra", "acting",
        "policy",
    )  # fmt: skip
    try:
        _known(f"key of {where}", table, keys)
        agent = table.get("agent", name)
        if not isinstance(agent, str):
            raise InputError(f"agent must be a name, got {agent!r}")
        known = agent_named(agent)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if known.base is not None:
        raise InputError(
            f"{where}: {agent} is trained beside runs of {known.base}: name it in "
            f'agents.{known.base}.extra = ["{agent}"]'
        )
    tried = {
        key: tuple(values) if isinstance(values, list) else (values,)
        for key, values in _table(table, "try", where).items()
    }
    for key, values in tried.items():
        if not values:
            raise InputError(f"{where}.try: {key} has no values")
    for key, told in (("try_by", "a method"), ("policy", "the name of another entry")):
        if not isinstance(table.get(key, ""), str):
            raise InputError(f"{where}.{key} must be {told}, got {table[key]!r}")
    usual = ("bc", "qgf") if known.usual == "qgf" else ("bc",)
    usual = ("qgf",) if "policy" in table else usual
    return SpecEntry(
        name,
        known.name,
        _table(table, "train", where),
        tried,
        _numbers(f"{where}.try_seeds", table.get("try_seeds", [])),
        table.get("try_by", ""),
        _strings(f"{where}.methods", table.get("methods", list(usual))),
        _floats(f"{where}.weights", table.get("weights", [])),
        _strings(f"{where}.extra", table.get("extra", [])),
        _table(table, "acting", where),
        table.get("policy", ""),
    )


def _known(kind: str, given: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            raise unknown_name(kind, key, valid)


def _typed(where: str, given: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise InputError on a key that is none, and on a value of another type."""
    _known(f"setting of {where}", given, tuple(kinds))
    for key, value in given.items():
        kind = kinds[key]
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool):
            told = {int: "a whole number", float: "a number", str: "a name", list: "a list"}
            raise InputError(f"{where}.{key} must be {told[kind]}, got {value!r}")


def _table(content: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{where + '.' if where else ''}{name} must be a table, got {table!r}")
    return {k: tuple(v) if isinstance(v, list) and name == "train" else v for k, v in table.items()}


def _list(where: str, values: Any, kinds: type | tuple[type, ...], told: str) -> tuple[Any, ...]:
    fitting = isinstance(values, list | tuple) and all(
        isinstance(v, kinds) and not isinstance(v, bool) for v in values
    )
    if not fitting:
        raise InputError(f"{where} must be a list of {told}, got {values!r}")
    return tuple(values)


def _strings(where: str, values: Any) -> tuple[str, ...]:
    return _list(where, values, str, "names")


def _numbers(where: str, values: Any) -> tuple[int, ...]:
    numbers = _list(where, values, int, "whole numbers ≥ 0")
    for each in numbers:
        _number(where, each)
    return numbers


def _number(where: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{where} must be a whole number ≥ 0, got {value!r}")


def _floats(where: str, values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in _list(where, values, (int, float), "numbers"))
