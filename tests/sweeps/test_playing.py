"""What of a sweep's runs is played, and what of it is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qgf_ref.evaluation.methods import parse_method
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.rollouts import Episode
from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.sweeps import loading, playing
from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.sweep import Sweep
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept


def episode(success: bool, reward: float) -> Episode:
    return Episode(0, success, reward, 7, success, (0,), (-7.0,), (-5.0,), (-5.0,))


def cell(method: str, split: str, seeds: int) -> Cell:
    each = (episode(True, -3.0), episode(False, -9.0))
    return Cell(parse_method(method), 0.1, split, (each,) * seeds, 2.0, 1.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is loaded and played, by what would have done so."""
    found: dict[str, Any] = {"loaded": []}

    def load(run: Path | None = None, **options: Any) -> Path:
        found["loaded"].append((run, options))
        return run or options["critic"]

    def select(runs: list[Path], name: str, settings: Any, *, directory: Path) -> Any:
        found["selection"] = settings, directory
        return (cell("qgf", SELECTION, len(runs)),)

    def evaluate(runs: list[Path], name: str, settings: Any, *, directory: Path) -> Any:
        found["evaluate"] = settings, directory
        cells = {s: [cell("qgf", s, len(runs))] for s in (SELECTION, HELD_OUT)}
        return SimpleNamespace(
            selection=cells[SELECTION], held_out=cells[HELD_OUT], provenance={"commit": "x"}
        )

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(playing, "selection", select)
    monkeypatch.setattr(playing, "evaluate", evaluate)
    monkeypatch.setattr("qgf_ref.sweeps.driver.perform", stub.perform)
    return found


def made(place: Path) -> Sweep:
    agents = {
        "iql": {
            "try": {"expectile": [0.7, 0.9]}, "try_seeds": [1], "methods": ["bc", "ood", "qgf"],
            "try_by": "qgf", "weights": [0.1, 0.3],
        },
    }  # fmt: skip
    sweep = swept(place, agents=agents)
    work_off(sweep, SerialRunner(sweep))
    return sweep


def test_a_value_is_tried_by_one_method_on_its_seeds(tmp_path: Path, seen: dict[str, Any]) -> None:
    sweep = made(tmp_path)
    entry = sweep.spec.entry("iql")
    playing.try_value(sweep, TASK, entry, "expectile=0.7")
    settings, directory = seen["selection"]
    assert [m.label for m in settings.methods] == ["qgf"]
    assert settings.weights == (0.1, 0.3)
    assert directory == sweep.place.records(TASK, "iql", "expectile=0.7")
    assert [run for run, _ in seen["loaded"]] == [
        sweep.place.run(TASK, "iql", "expectile=0.7", 1)
    ]  # fmt: skip
    result = sweep.result(TASK, entry, "expectile=0.7")
    assert result is not None
    assert result["cells"][0]["by_seed"] == [
        {"wins": [1, 0], "returns": [-3.0, -9.0], "lengths": [7, 7]}
    ]  # fmt: skip
    assert result["cells"][0]["critic_bias"] == -2.0


def test_the_chosen_runs_are_played_by_all_methods(tmp_path: Path, seen: dict[str, Any]) -> None:
    sweep = made(tmp_path)
    entry = sweep.spec.entry("iql")
    chosen = sweep.chosen(TASK, entry)
    assert chosen
    playing.play(sweep, TASK, entry)
    settings, directory = seen["evaluate"]
    assert [m.label for m in settings.methods] == ["bc", "ood", "qgf"]
    assert directory == sweep.place.records(TASK, "iql")
    assert [run for run, _ in seen["loaded"]] == [
        sweep.place.run(TASK, "iql", chosen, seed) for seed in (0, 1)
    ]  # fmt: skip
    result = sweep.result(TASK, entry)
    assert result is not None
    assert (result["chosen"], result["tried_by"]) == (chosen, "qgf")
    assert [t["value"] for t in result["tried"]] == ["expectile=0.7", "expectile=0.9"]
    assert [c["split"] for c in result["cells"]] == [SELECTION, HELD_OUT]
    assert result["costs"]["milliseconds_per_chunk"] == {"qgf": 500.0}
    assert result["provenance"] == {"commit": "x"}


def test_a_flow_is_guided_by_another_entrys_critic(tmp_path: Path, seen: dict[str, Any]) -> None:
    agents = {"iql": {}, "better": {"agent": "qam", "policy": "iql"}}
    sweep = swept(tmp_path, agents=agents)
    work_off(sweep, SerialRunner(sweep))
    entry = sweep.spec.entry("better")
    playing.play(sweep, TASK, entry)
    place = sweep.place.run
    assert [options for _, options in seen["loaded"]][2:] == [
        {"policy": place(TASK, "iql", "", seed), "critic": place(TASK, "better", "", seed),
         "dtype": "float32"}
        for seed in (0, 1)
    ]  # fmt: skip
    result = sweep.result(TASK, entry)
    assert result is not None
    assert result["identity"]["policy"]["entry"] == "iql"
    assert [cell["label"] for cell in result["cells"]] == ["better qgf"] * 2


def test_settings_of_acting_alone_reach_the_agent(tmp_path: Path, seen: dict[str, Any]) -> None:
    agents = {"qam": {"acting": {"best_of_n": 4}}}
    sweep = swept(tmp_path, agents=agents)
    work_off(sweep, SerialRunner(sweep))
    playing.play(sweep, TASK, sweep.spec.entry("qam"))
    assert seen["loaded"][0][1] == {"dtype": "float32", "settings": {"best_of_n": 4}}
