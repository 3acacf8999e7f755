"""qgf-ref goals: what it says of a collected data set, and one sentence for each thing wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.cli.main import main
from tests.data.synthetic import DATASET, episodes, write_dataset

ORACLE = "pointmaze-medium-navigate-oraclerep-v0"
SINGLE = "pointmaze-medium-navigate-singletask-task1-v0"


def test_from_collection_to_goals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ("--episodes", "4", "--episode-steps", "30", "--workers", "1", "--slices", "2")
    assert main(["collect", ORACLE, *numbers, "--out", str(tmp_path)]) == 0
    place = tmp_path / DATASET
    said = capsys.readouterr().out
    assert f"or: qgf-ref train {ORACLE} --data {place} --agent dqc\n" in said
    assert f"qgf-ref goals {ORACLE} --data {place}" in said
    assert main(["goals", ORACLE, "--data", str(place), "--horizon", "5"]) == 0
    out = capsys.readouterr().out
    for said in (
        "pointmaze-medium-v0, 5 goals",
        f"{place / DATASET}-000.npz and 1 more",
        "4, 29 to 29 transitions\n",
        "116; 96 windows of 5",
        "goals           2 wide: the oracle representation",
    ):
        assert said in out
    one = place / f"{DATASET}-000.npz"
    only = ["--probabilities", "1", "0", "0", "--horizon", "5", "--rows", "50"]
    assert main(["goals", DATASET, "--data", str(one), *only, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shares"] == {"reached": 1.0, "current": 1.0, "same_state": 0.0}
    assert told["goal_bytes"] == 0 and told["widths"]["goals"] == 2


def test_each_fault_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_dataset(tmp_path)
    whole = episodes()
    short = {**whole, "terminals": whole["terminals"].copy()}
    short["terminals"][[3, 9]] = True
    without = {name: array for name, array in whole.items() if name != "qpos"}
    faults = (
        (whole, (ORACLE, "--probabilities", "0.5", "0.5", "0.5"), "must lie in [0, 1] and sum"),
        (whole, (ORACLE, "--horizon", "20"), "no episode has more than 20 transitions"),
        (short, (ORACLE, "--horizon", "5"), "2 of 6 episodes have no more than 5 transitions"),
        (without, (ORACLE,), "lacks qpos, of which the oracle representation of pointmaze"),
        ({**whole, "qpos": whole["qpos"][:, :1]}, (ORACLE,), "2 columns for goals of width 2"),
        (whole, (SINGLE,), f"a goal-conditioned name: {ORACLE}"),
        (whole, ("pointmaze-medum-navigate-oraclerep-v0",), "pointmaze-medium-v0"),
        (whole, (ORACLE, "--rows", "0"), "--rows must be at least 1"),
        (whole, (ORACLE, "--short-episodes", "keep"), "refuse, skip"),
    )  # fmt: skip
    for arrays, words, message in faults:
        np.savez(path, **arrays)
        assert main(["goals", *words, "--data", str(path)]) == 2, words
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert main(["train", ORACLE, "--data", str(path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "is goal-conditioned and has no rewards" in said
    assert SINGLE in said
    np.savez(path, **short)
    skipping = ["goals", ORACLE, "--data", str(path), "--short-episodes", "skip", "--horizon", "5"]
    assert main(skipping) == 0
    assert "2 too short for a window of 5" in capsys.readouterr().out
