"""What an evaluation writes and prints."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.evaluation.methods import DEFAULT_METHODS, parse_methods
from qgf_ref.evaluation.protocol import Cell, Evaluation, evaluate
from qgf_ref.evaluation.report import (
    FILES,
    critic_rows,
    critic_table,
    rows,
    selection_rows,
    success_table,
    write_report,
)
from qgf_ref.evaluation.settings import Settings
from qgf_ref.tables import text_table
from tests.evaluation.fakes import LineTask, line_checkpoint


@cache
def evaluation(weights: tuple[float, ...] = (0.003, 1.0), checkpoints: int = 2) -> Evaluation:
    settings = Settings(parse_methods(DEFAULT_METHODS), weights, 4, 4, envs=4)
    return evaluate([line_checkpoint(i) for i in range(checkpoints)], LineTask(), settings)


def test_files(tmp_path: Path, draws: None) -> None:
    write_report(evaluation(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES) - {"records.jsonl"}
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["method"] for row in content["rows"]] == list(DEFAULT_METHODS)
    assert content["settings"]["weights"] == [0.003, 1.0]
    assert "commit" in content["provenance"]
    with (tmp_path / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    # held out: 9 methods; selection: 4 unweighted ones and 5 at two weights; 4 seeds, 2 checkpoints
    assert len(episodes) == (9 + 4 + 5 * 2) * 4 * 2
    held = [e for e in episodes if e["split"] == "held-out" and e["method"] == "qgf"]
    (row,) = [r for r in content["rows"] if r["method"] == "qgf"]
    assert row["success"] == np.mean([int(e["success"]) for e in held])
    assert {e["weight"] for e in held} == {str(row["weight"])}
    with np.load(tmp_path / "critic_error.npz") as file:
        assert len(file["q"]) == len(file["realised"]) == len(file["cell"])
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3
    for _, *cells in success_table(evaluation())[1]:
        assert all(f">{cell}</td>" in page for cell in cells if cell)
    assert "No method succeeded" in page and "<td>memory; memory</td>" in page


def test_without_selection_an_old_figure_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "weights.png").write_bytes(b"old")
    write_report(evaluation((0.1,), 1), tmp_path)
    assert not (tmp_path / "weights.png").exists()


def test_tables_fit_a_terminal() -> None:
    for table in (success_table(evaluation()), critic_table(evaluation())):
        lines = text_table(*table).splitlines()
        assert len(lines) == 1 + len(DEFAULT_METHODS)
        assert max(map(len, lines)) <= 100


def test_rows() -> None:
    table = {row["method"]: row for row in rows(evaluation())}
    assert table["bc"]["minus_bc"] is None
    for name, row in table.items():
        assert row["success_low"] <= row["success"] <= row["success_high"]
        assert np.mean(row["by_checkpoint"]) == pytest.approx(row["success"])
        if name != "bc":
            difference = row["success"] - table["bc"]["success"]
            assert row["minus_bc"] == pytest.approx(difference)
            assert row["minus_bc_low"] <= difference <= row["minus_bc_high"]
    chosen = {(r["method"], r["weight"]) for r in selection_rows(evaluation()) if r["chosen"]}
    assert chosen == {(r["method"], r["weight"]) for r in table.values()}
    every = critic_rows(evaluation())
    assert {r["split"] for r in every} == {"held-out", "selection"}
    assert all(r["bias_low"] <= r["bias"] <= r["bias_high"] for r in every)


def test_the_difference_is_to_behaviour_cloning() -> None:
    """By hand: wins of BC and of the others, whatever their order."""
    whole = evaluation()
    cells = whole.held_out

    def with_wins(cell: Cell, wins: list[bool]) -> Cell:
        played = [replace(e, success=w) for e, w in zip(cell.episodes, wins, strict=True)]
        return replace(cell, by_checkpoint=(tuple(played[:4]), tuple(played[4:])))

    bc = [True, False] * 4
    wins = {c.method.label: [True] * (i % 9) + [False] * (8 - i % 9) for i, c in enumerate(cells)}
    wins["bc"] = bc
    made = replace(whole, held_out=tuple(with_wins(c, wins[c.method.label]) for c in cells))
    for row in rows(made):
        if row["method"] == "bc":
            assert row["minus_bc"] is None
        else:
            expected = (sum(wins[row["method"]]) - 4) / 8
            assert row["minus_bc"] == pytest.approx(expected)
