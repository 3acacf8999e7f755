"""benchmarks/success.py: which runs it makes, and how it pools tasks."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks import success
from qgf_ref.evaluation.critic_error import chunks, critic_error
from qgf_ref.evaluation.methods import parse_methods
from qgf_ref.evaluation.protocol import Evaluation, evaluate
from qgf_ref.evaluation.report import selection_rows, summary
from qgf_ref.evaluation.settings import Settings
from qgf_ref.evaluation.suite import (
    difference_text,
    minus_qgf,
    pooled,
    suite_rows,
    suite_summary,
    weights_by_goal,
)
from qgf_ref.files import write_json
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import Record
from tests.evaluation.fakes import LineTask, line_checkpoint

SETTINGS = Settings(parse_methods(["bc", "bfn-4", "qgf"]), (0.003, 1.0), 4, 4, envs=4)


@cache
def evaluations() -> tuple[Evaluation, Evaluation]:
    first, second = (
        evaluate([line_checkpoint(i), line_checkpoint(i + 1)], LineTask(), SETTINGS) for i in (0, 2)
    )
    return first, second


def test_pooling_is_over_all_episodes() -> None:
    whole = pooled(evaluations(), "two tasks")
    for i, cell in enumerate(whole.held_out):
        parts = [e.held_out[i] for e in evaluations()]
        assert cell.episodes == parts[0].episodes + parts[1].episodes
        wins = sum(e.success for p in parts for e in p.episodes)
        assert cell.success.value == wins / 16
        assert cell.sampling_seconds == sum(p.sampling_seconds for p in parts)
        assert cell.weight is None
    for i, cell in enumerate(whole.selection):
        assert cell.weight == evaluations()[0].selection[i].weight
        assert len(cell.episodes) == 16


def test_figures_are_drawn_from_what_is_written(tmp_path: Path, draws: None) -> None:
    whole = pooled(evaluations(), "two tasks")
    tasks = json.loads(json.dumps([summary(e) for e in evaluations()]))
    about = suite_summary(whole.task, suite_rows(evaluations(), whole), tasks)
    columns = ("method", "weight", "success", "success_low", "success_high", "by_checkpoint")
    assert about["selection"] == [{c: r[c] for c in columns} for r in selection_rows(whole)]
    committed = success.RESULTS / "success_cube-single.json"
    success.draw(json.loads(committed.read_text()), tmp_path)
    assert {p.stem for p in tmp_path.iterdir()} == {"success_cube-single", "weights_cube-single"}


def test_goals_have_columns_of_their_own() -> None:
    whole = evaluations()[0]
    described = ({**whole.checkpoints[0], "goal_dim": 1},)
    whole = replace(whole, checkpoints=described)
    rows = suite_rows([whole], whole)
    text = success.markdown(success.SUITES["scene"], SETTINGS, 2, rows).splitlines()
    assert "| goal 3 | goal 4 | w |" in text[0] and text[0].endswith("| Q − return | ECE |")
    assert "task" not in text[0] and len(text[0].split("|")) == len(text[2].split("|"))
    for cell, row in zip(whole.held_out, rows, strict=True):
        own = [e.success for e in cell.episodes if 1 + e.seed % 5 == 1]
        assert row["by_goal"][0] == sum(own) / len(own)
        error = critic_error(chunks(cell))
        assert error is not None and row["critic_ece"] == error.ece
    header, _, *lines = weights_by_goal(whole, "qgf").splitlines()
    assert header.startswith("| w | goal 1 |") and header.endswith("| goal 4 | all (95%) |")
    assert [line.split(" | ")[0] for line in lines] == ["| 0.003", "| 1"]


def test_table_and_markdown() -> None:
    both = list(evaluations())
    found = suite_rows(both, pooled(both, "two tasks"))
    for i, row in enumerate(found):
        own = [e.held_out[i] for e in both]
        assert row["by_task"] == [c.success.value for c in own]
        assert row["weights"] == [c.weight for c in own]
        by_seed = [(own[0].rates[s] + own[1].rates[s]) / 2 for s in (0, 1)]
        assert (row["seeds_low"], row["seeds_high"]) == (min(by_seed), max(by_seed))
        chunks = sum(len(e.steps) for c in own for e in c.episodes)
        seconds = sum(c.sampling_seconds for c in own)
        assert row["milliseconds_per_chunk"] == pytest.approx(1e3 * seconds / chunks)
    qgf = found[2]
    expected = [max(c.success.value for c in e.curve(e.held_out[2].method)) for e in both]
    assert qgf["optimistic"] == sum(expected) / 2
    suite = replace(success.SUITES["scene"], tasks=("a", "b"))
    text = success.markdown(suite, SETTINGS, 2, found)
    assert "| task 1 | task 2 |" in text
    assert "10,000 updates, 2 training seeds; 8 held-out episodes for each task and method" in text


def test_which_runs_are_made(tmp_path: Path) -> None:
    args = argparse.Namespace(updates=None, data=Path("d"), seeds=None)
    configs = success.configurations(success.SUITES["cube-single"], args)
    assert len({(c.task, c.seed) for c in configs}) == 15
    assert {(c.hidden, c.batch, c.updates) for c in configs} == {((256,) * 3, 256, 10_000)}
    (config,) = success.configurations(success.SUITES["embedded"], args)
    assert (config.hidden, config.updates) == ((192,) * 3, 30_000)

    run = success.directory(tmp_path, config)
    made = success.command(config, run)
    assert made is not None and made[:1] == ["--config"]
    run.mkdir(parents=True)

    def recorded(config: TrainConfig, update: int) -> None:
        content = {"config": config.to_json(), "dataset": [], "sessions": [{"to_update": update}]}
        write_json(run / "train.json", content)
        assert Record.read(run).last_update == update

    recorded(replace(config, data="elsewhere"), 30_000)
    assert success.command(config, run) is None
    recorded(config, 20_000)
    resumed = ["--resume", str(run), "--updates", "30000"]
    assert success.command(config, run) == resumed
    recorded(replace(config, updates=10_000), 10_000)
    assert success.command(config, run) == resumed
    recorded(replace(config, hidden=(8, 8)), 30_000)
    with pytest.raises(SystemExit, match="other settings"):
        success.command(config, run)


def test_the_paired_difference_to_qgf_is_of_the_same_episodes() -> None:
    whole = pooled(list(evaluations()), "two tasks")
    bc, qgf = whole.held_out[0], whole.held_out[2]
    found = minus_qgf(whole, bc)
    wins = [a.success - b.success for a, b in zip(bc.episodes, qgf.episodes, strict=True)]
    assert found["minus_qgf"] == pytest.approx(sum(wins) / len(wins))
    low, high = found["minus_qgf_low"], found["minus_qgf_high"]
    assert low is not None
    assert high is not None
    assert -1 <= low < sum(wins) / len(wins) < high <= 1
    assert minus_qgf(whole, qgf)["minus_qgf"] is None
    without = replace(whole, held_out=whole.held_out[:2])
    assert minus_qgf(without, bc)["minus_qgf"] is None
    assert (
        difference_text({"minus_qgf": -0.031, "minus_qgf_low": -0.1, "minus_qgf_high": 0.04})
        == "−0.03 (−0.10 +0.04)"
    )
    assert difference_text({"minus_qgf": None}) == ""


@pytest.mark.parametrize("name", [n for n, suite in success.SUITES.items() if suite.runs_of])
def test_suites_on_others_runs_name_methods_and_runs_that_exist(name: str) -> None:
    suite = success.SUITES[name]
    parse_methods(suite.methods)
    assert "qgf" in suite.methods, "what the differences are to"
    base = success.SUITES[suite.runs_of or ""]
    assert set(suite.tasks) <= set(base.tasks)
    assert (suite.updates, suite.seeds, suite.settings) == (base.updates, base.seeds, base.settings)
    settings = {**suite.settings, "agent_settings": suite.settings.get("agent_settings", {})}
    agent = TrainConfig(task=suite.tasks[0], **settings).trained_agent()
    assert agent.having(suite.acting).stated == {**agent.stated, **suite.acting}


def test_a_run_of_another_backend_is_the_same_run(tmp_path: Path) -> None:
    config = TrainConfig(task="cube-single-play-singletask-task1-v0", updates=3)
    run = tmp_path / "seed0"
    run.mkdir()
    trained = replace(config, backend="numpy", threads=1)
    record = Record.create(run, trained, {"dataset": [], "transitions": 1, "networks": {}})
    record.begin_session()
    record.progress(0, 3, 1.0)
    record.write()
    assert success.command(config, run) is None
    with pytest.raises(SystemExit, match="other settings"):
        success.command(replace(config, batch=7), run)
