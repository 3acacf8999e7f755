"""Which MuJoCo plays, and which recorded the data set."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from qgf_ref.evaluation import simulator as module
from qgf_ref.evaluation.simulator import UNKNOWN, recorded_with, simulator

CUBE = SimpleNamespace(dataset="cube-single-play-v0")


def data(place: Path, mujoco: str | None) -> str:
    path = place / f"{CUBE.dataset}.npz"
    path.write_bytes(b"")
    if mujoco is not None:
        about = {"configuration": {"versions": {"mujoco": mujoco}}}
        path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        ("4.0.0", "4.0.0", ""),
        ("4.0.0", "3.5.1", ""),
        ("3.4.0", "3.2.7", ""),
        ("4.0.0", "3.4.0", "recorded with MuJoCo 3.4.0, and this is 4.0.0"),
        ("3.3.2", "3.10.0", "recorded with MuJoCo 3.10.0, and this is 3.3.2"),
        ("4.0.0", None, "nothing says with which MuJoCo"),
    ],
)
def test_sides_of_3_5(
    here: str, there: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "version", lambda name: here)
    about = simulator(CUBE, data(tmp_path, there), trained=True)
    assert (about["mujoco"], about["data"]) == (here, there or UNKNOWN)
    assert told in (about["note"] or "") and bool(told) == bool(about["note"])
    maze = SimpleNamespace(dataset="pointmaze-medium-navigate-v0")
    assert simulator(maze, data(tmp_path, there), trained=True)["note"] is None
    assert simulator(CUBE, data(tmp_path, there), trained=False)["data"] is None


def test_where_it_is_written(tmp_path: Path) -> None:
    path = data(tmp_path, "3.2.7")
    assert (
        recorded_with(CUBE.dataset, path) == recorded_with(CUBE.dataset, str(tmp_path)) == "3.2.7"
    )
    assert recorded_with(CUBE.dataset, str(tmp_path / "nowhere.npz")) is None
