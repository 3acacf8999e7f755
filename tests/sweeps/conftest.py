"""A sweep that takes seconds, and one whose work is stubbed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.sweeps.place import SweepPlace
from qgf_ref.sweeps.report import begin
from qgf_ref.sweeps.spec_file import spec_of
from qgf_ref.sweeps.sweep import Sweep
from tests.data.synthetic import DATASET, TASK, write_dataset

TINY: dict[str, Any] = {
    "tasks": [TASK],
    "seeds": [0, 1],
    "train": {
        "updates": 24, "batch": 7, "hidden": [6, 5], "horizon_length": 20, "denoise_steps": 4,
        "log_every": 4, "checkpoint_every": 6,
    },
    "evaluate": {"weights": [0.1, 1.0], "selection_episodes": 2, "episodes": 2, "envs": 2},
    "extra": {"updates": 8},
    "agents": {
        "iql": {"methods": ["bc", "qgf", "cfgrl"], "extra": ["cfgrl"]},
        "edp": {"try": {"bc_weight": [1.0, 10.0]}, "try_seeds": [0]},
    },
}  # fmt: skip
"""A spec as `tomllib` reads it: every kind of job, networks of a few weights."""


def tiny(**changes: Any) -> dict[str, Any]:
    """A copy of the spec, with other tables."""
    return {**copy.deepcopy(TINY), **changes}


def swept(root: Path, **changes: Any) -> Sweep:
    """The sweep of such a spec in `root`, its data set made, which the stub does at once."""
    return begin(spec_of(tiny(**{"collect": {DATASET: 1}, **changes})), SweepPlace(root), None)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_dataset(place, count=6, steps=41)
    return place


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """The spec as a TOML file."""
    path = tmp_path / "tiny.toml"
    path.write_text(toml(TINY))
    return path


def toml(spec: dict[str, Any]) -> str:
    """The spec as TOML: what it needs of the format."""
    lines = [f"{key} = {_value(v)}" for key, v in spec.items() if not isinstance(v, dict)]
    for key, table in spec.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f'"{name}" = {_value(v)}' for name, v in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
