"""benchmarks/success.py and the specs of benchmarks/sweeps; how tasks are pooled."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks import success
from qgf_ref.errors import InputError
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
from qgf_ref.sweeps.place import SweepPlace
from qgf_ref.sweeps.spec import SweepSpec
from qgf_ref.sweeps.spec_file import read_spec
from qgf_ref.sweeps.sweep import Sweep, train_command
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import Record
from tests.evaluation.fakes import LineTask, line_checkpoint

SETTINGS = Settings(parse_methods(["bc", "bfn-4", "qgf"]), (0.003, 1.0), 4, 4, envs=4)
NOT_COMPARED = ("data", "threads", "backend")
"""Settings of a run that decide no more than its last bits."""


def spec_as(name: str) -> SweepSpec:
    """A committed spec with the methods and counts of SETTINGS, on two seeds."""
    spec = read_spec(success.spec_file(name))
    methods = tuple(m.label for m in SETTINGS.methods)
    played = {"weights": SETTINGS.weights, "selection_episodes": 4, "episodes": 4, "envs": 4}
    entry = replace(spec.entries[0], methods=methods)
    return replace(spec, seeds=(0, 1), entries=(entry,), evaluate=played)


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
    text = success.markdown(spec_as("scene"), "scene", rows).splitlines()
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
    text = success.markdown(spec_as("scene"), "scene", found)
    assert "| task 1 | task 2 |" in text
    assert "10,000 updates, 2 training seeds; 8 held-out episodes for each task and method" in text


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


@pytest.mark.parametrize("path", sorted(success.SPECS.glob("*.toml")), ids=lambda p: str(p.stem))
def test_specs_are_those_of_a_sweep(path: Path, tmp_path: Path) -> None:
    """Each is read, and expands into jobs that end in an evaluation of each agent and task."""
    spec = read_spec(path)
    every, wanted = Sweep(spec, SweepPlace(tmp_path), str(tmp_path)).wanted()
    trained = {job.name for job in every if job.kind == "train"}
    seeds = {job.seed for job in every if job.kind == "train"}
    assert seeds == set(spec.seeds)
    assert len(trained) >= len(spec.entries) * len(spec.tasks) * len(spec.seeds)
    ends = [(job.task, job.entry) for job in every if job.kind == "evaluate"]
    assert sorted(ends) == sorted((t, e.name) for t in spec.tasks for e in spec.entries)
    before: set[str] = set()
    for job in every:
        assert set(job.needs) <= before, job.name
        before.add(job.name)
    assert {job.name for job in wanted} == before


@pytest.mark.parametrize("name", [*success.OWN_RUNS, *success.RUNS_OF])
def test_committed_results_are_of_these_settings(name: str) -> None:
    """What was made before the specs were files: the same runs, methods, weights and episodes."""
    spec = read_spec(success.spec_file(name))
    (entry,) = spec.entries
    content = json.loads((success.RESULTS / f"success_{name}.json").read_text())
    settings = spec.settings(entry)
    assert [row["method"] for row in content["rows"]] == [m.label for m in settings.methods]
    assert [task["task"] for task in content["tasks"]] == list(spec.tasks)
    for task in content["tasks"]:
        made = task["settings"]
        assert tuple(made["weights"]) == settings.weights
        counts = made["selection_episodes"], made["episodes"], made["seed"]
        assert counts == (settings.selection_episodes, settings.episodes, settings.seed)
        assert made.get("backend", "numpy") == settings.backend
    asked = [(seed, name) for seed in spec.seeds for name in spec.tasks]
    for (seed, name), record in zip(asked, content["training"], strict=True):
        ours = json.loads(json.dumps(spec.config(entry, name, seed).to_json()))
        theirs = {k: v for k, v in record["config"].items() if k not in NOT_COMPARED}
        own = theirs.pop("agent_settings", {})
        # settings that came later have their defaults
        assert {k: ours[k] for k in theirs} == theirs
        assert {k: ours["agent_settings"][k] for k in own} == own


@pytest.mark.parametrize("name", success.RUNS_OF)
def test_specs_on_others_runs_name_methods_and_runs_that_exist(name: str) -> None:
    spec, base = (read_spec(success.spec_file(n)) for n in (name, success.RUNS_OF[name]))
    (entry,), (other,) = spec.entries, base.entries
    assert "qgf" in entry.methods, "what the differences are to"
    assert set(spec.tasks) <= set(base.tasks)
    assert (entry.name, spec.seeds) == (other.name, base.seeds)
    task = spec.tasks[0]
    assert spec.config(entry, task, 0) == base.config(other, task, 0)


def test_runs_are_shared(tmp_path: Path) -> None:
    """What one sweep has trained, the other finds; one with runs of its own is left alone."""
    success.share_runs(tmp_path, "goals")
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        success.share_runs(tmp_path, "goals-target")
    (tmp_path / "goals" / "runs" / "one").mkdir()
    assert (tmp_path / "goals-target" / "runs" / "one").is_dir()
    (tmp_path / "methods" / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match="has runs of its own"):
        success.share_runs(tmp_path, "methods")


def test_names_of_specs() -> None:
    assert success.spec_file("scene") == success.SPECS / "scene.toml"
    assert success.spec_file("my/own.toml") == Path("my/own.toml")
    with pytest.raises(InputError, match="the valid ones are: cube-single, corr"):
        success.spec_file("cube-singel")


def test_a_run_of_another_backend_is_the_same_run(tmp_path: Path) -> None:
    config = TrainConfig(task="cube-single-play-singletask-task1-v0", updates=3)
    run = tmp_path / "seed0"
    assert train_command(config, run) == "start"
    run.mkdir()
    trained = replace(config, backend="numpy", threads=1, data="elsewhere")
    record = Record.create(run, trained, {"dataset": [], "transitions": 1, "networks": {}})
    record.begin_session()
    record.progress(0, 3, 1.0)
    record.write()
    assert train_command(config, run) is None
    assert train_command(replace(config, updates=5), run) == "resume"
    with pytest.raises(InputError, match="other settings"):
        train_command(replace(config, batch=7), run)
