"""What users rely on by name: the public API, command lines, file formats, names of mistakes.

`promised.json` is what version 0.1 offers. A promise may grow (a name, a flag, a keyword with a
default); it is never taken back. `python -m tests.promises.test_promises` writes today's again, for
the day on which a version may break them.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import qgf_ref
from qgf_ref import testing
from qgf_ref.cli.main import parser
from qgf_ref.crosscheck.sampler.mistakes.bank import BANK
from qgf_ref.crosscheck.update.mistakes import MISTAKES

PLACE = Path(__file__).with_name("promised.json")
IMPORTED_BY_SCRIPTS = {
    "qgf_ref.audit.definitions": ("departure_from_gradient_field", "potential_gradient"),
    "qgf_ref.cli.main": ("main",),
    "qgf_ref.crosscheck.compare": ("compare",),
    "qgf_ref.data.tasks": ("task",),
    "qgf_ref.denoising": ("denoising_step",),
    "qgf_ref.evaluation.methods": ("parse_method",),
    "qgf_ref.evaluation.rendering": ("render",),
    "qgf_ref.guidance.queries": ("critic_gradient", "critic_value"),
    "qgf_ref.interop.checkpoint": ("Checkpoint", "Options"),
    "qgf_ref.interop.export": ("names_in",),
    "qgf_ref.interop.trace_file": ("read_trace", "recorded_trace"),
    "qgf_ref.kernels.cache": ("directory",),
    "qgf_ref.nets.initialisers": ("init_value", "init_velocity"),
    "qgf_ref.processes": ("Crew",),
}


def parameters(function: Any) -> dict[str, str]:
    """Kind and default of each parameter, in order; none of an exception."""
    if isinstance(function, type) and issubclass(function, Exception):
        return {}
    return {
        p.name: f"{p.kind.name} = {_default(p.default)}"
        if p.default is not p.empty
        else p.kind.name
        for p in inspect.signature(function).parameters.values()
    }


def _default(value: Any) -> str:
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else f"a {type(value).__name__}"


def api(module: Any) -> dict[str, Any]:
    """Signatures of the functions and classes in a module's `__all__`."""
    return {name: parameters(getattr(module, name)) for name in sorted(module.__all__)}


def commands() -> dict[str, list[str]]:
    """Flags and positional arguments of every command."""
    (sub,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {
        name: sorted(flag for a in command._actions for flag in (*a.option_strings, a.dest))
        for name, command in sub.choices.items()
    }


def today() -> dict[str, Any]:
    """Everything that is promised, as it is now."""
    return {
        "qgf_ref": api(qgf_ref),
        "qgf_ref.testing": {
            name: parameters(getattr(testing, name))
            for name in sorted(testing.__all__)
            if name.startswith("check_")
        },
        "estimators": list(qgf_ref.estimator_names()),
        "commands": commands(),
        "mistakes of a sampler": {m.name: m.says for m in BANK},
        "mistakes of an update": {m.name: m.says for m in MISTAKES},
    }


PROMISED: dict[str, Any] = json.loads(PLACE.read_text()) if PLACE.exists() else {}


@pytest.mark.parametrize("module", ["qgf_ref", "qgf_ref.testing"])
def test_names_and_signatures_stay(module: str) -> None:
    """Every call that was right still is: what was required may become optional."""
    now = today()[module]
    for name, promised in PROMISED[module].items():
        assert name in now, f"{module}.{name} is gone"
        kept = {p: how for p, how in now[name].items() if p in promised}
        assert list(kept) == list(promised), f"{module}.{name}"
        for parameter, how in promised.items():
            assert how in (kept[parameter], kept[parameter].split(" = ")[0]), (name, parameter)
        added = {p: how for p, how in now[name].items() if p not in promised}
        assert all("=" in how or "VAR" in how for how in added.values()), (name, added)


def test_estimators_stay() -> None:
    assert set(PROMISED["estimators"]) <= set(today()["estimators"])


def test_command_lines_stay() -> None:
    now = today()["commands"]
    for command, flags in PROMISED["commands"].items():
        assert set(flags) <= set(now[command]), command


@pytest.mark.parametrize("kind", ["mistakes of a sampler", "mistakes of an update"])
def test_mistakes_keep_names_and_texts(kind: str) -> None:
    now = today()[kind]
    assert {name: now.get(name) for name in PROMISED[kind]} == PROMISED[kind]


def test_there_are_143_mistakes() -> None:
    assert sum(len(PROMISED[k]) for k in PROMISED if k.startswith("mistakes")) == 143


@pytest.mark.parametrize("module", IMPORTED_BY_SCRIPTS)
def test_what_scripts_import_is_there(module: str) -> None:
    for name in IMPORTED_BY_SCRIPTS[module]:
        assert hasattr(importlib.import_module(module), name)


if __name__ == "__main__":
    PLACE.write_text(json.dumps(today(), indent=1, ensure_ascii=False) + "\n")
