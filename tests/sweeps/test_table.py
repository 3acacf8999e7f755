"""The numbers of the tables, by hand: two tasks, three seeds, four episodes each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from qgf_ref.agents.agent import Acting
from qgf_ref.bench.flop_count import chunk_flops, update_flops
from qgf_ref.evaluation.aggregates import aggregate, improvement
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.report import tables
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.table import costs
from tests.conftest import small_checkpoint
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept

OTHER = TASK.replace("task1", "task2")
QGF = {
    TASK: [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]],
    OTHER: [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]],
}
BC = {
    TASK: [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
    OTHER: [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr("qgf_ref.sweeps.driver.perform", stub.perform)
    evaluate = {"weights": [0.1, 1.0], "selection_episodes": 4, "episodes": 4}
    agents = {"iql": {"methods": ["bc", "qgf"]}}
    made = swept(tmp_path, tasks=[TASK, OTHER], seeds=[0, 1, 2], evaluate=evaluate, agents=agents)
    work_off(made, SerialRunner(made))
    for name in (TASK, OTHER):
        path = made.place.result(name, "iql")
        content = json.loads(path.read_text())
        for cell in content["cells"]:
            wins = {"bc": BC, "qgf": QGF}[cell["label"]][name]
            if cell["split"] == "selection":  # other numbers: at w = 1 all succeed
                wins = [[int(cell["weight"] == 1.0)] * 4] * 3
            for each, won in zip(cell["by_seed"], wins, strict=True):
                each["wins"] = won
        path.write_text(json.dumps(content))
    return made


def row(made: Sweep, label: str) -> dict[str, Any]:
    return next(r for r in tables(made).rows if r["method"] == label)


def test_success_and_its_intervals(sweep: Sweep) -> None:
    found = row(sweep, "qgf")
    assert (found["tasks"], found["seeds"], found["episodes"]) == (2, 3, 24)
    assert found["success"] == 12 / 24
    ends = scipy.stats.binomtest(12, 24).proportion_ci(0.95, method="wilson")
    assert found["success_low"] == pytest.approx(ends.low)
    # over seeds: each averaged over both tasks
    seeds = np.array([(4 + 1) / 8, (3 + 0) / 8, (2 + 2) / 8])
    reach = scipy.stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
    assert found["seeds_success"] == pytest.approx(0.5)
    assert found["seeds_success_high"] == pytest.approx(0.5 + reach)
    assert (found[f"on {TASK}"], found[f"on {OTHER}"]) == (9 / 12, 3 / 12)


def test_beside_the_baseline(sweep: Sweep) -> None:
    bc, scores = row(sweep, "bc"), {}
    assert bc["minus"] == pytest.approx(4 / 24 - 12 / 24)
    assert bc["minus_low"] < bc["minus"] < bc["minus_high"] < 0
    for label, wins in (("bc", BC), ("qgf", QGF)):
        scores[label] = np.array([np.mean(wins[name], axis=1) for name in (TASK, OTHER)]).T
    assert bc["improvement"] == improvement(scores["bc"], scores["qgf"]).value
    # task 1: (¼, ¼, 0) against (1, ¾, ½); task 2: (¼, ¼, 0) against (¼, 0, ½)
    assert bc["improvement"] == pytest.approx((0 + (1.5 + 1.5 + 0.5) / 9) / 2)
    assert row(sweep, "qgf")["iqm"] == aggregate(scores["qgf"]).value
    assert row(sweep, "qgf")["minus"] is None


def test_optimistic_is_of_the_selection(sweep: Sweep) -> None:
    assert row(sweep, "qgf")["optimistic"] == 1.0
    assert row(sweep, "bc")["optimistic"] is None


def test_a_task_that_is_missing_is_in_no_mean(sweep: Sweep) -> None:
    sweep.place.result(OTHER, "iql").unlink()
    found = row(sweep, "qgf")
    assert (found["tasks"], found["of_tasks"], found["success"]) == (1, 2, 9 / 12)
    assert tables(sweep).missing == [f"iql on {OTHER}"]


def test_costs_have_flops_from_results_or_from_the_runs(sweep: Sweep) -> None:
    """None of them where neither has them, as of results from before they were kept."""
    checkpoint = small_checkpoint(dtype="float32")
    for each in costs(sweep):
        assert (each["training_flops"], each["flops_per_chunk"]) == (None, None)
    save_checkpoint(checkpoint, sweep.place.run(TASK, "iql", "", 0))
    first, *_ = of_first = [r for r in costs(sweep) if r["task"] == TASK]
    rows = sweep.config(next(j for j in sweep.wanted()[0] if j.kind == "train")).batch
    each_update = update_flops(checkpoint, rows)
    assert each_update is not None
    assert first["training_flops"] == each_update * first["updates"]
    by_label = {r["method"]: r["flops_per_chunk"] for r in of_first}
    chunks = {"bc": Acting(), "qgf": Acting("qgf", 1.0)}
    assert by_label == {label: chunk_flops(checkpoint, how) for label, how in chunks.items()}
    path = sweep.place.result(TASK, "iql")
    content = json.loads(path.read_text())
    content["costs"] |= {"flops_per_update": 10, "flops_per_chunk": {"bc": 1, "qgf": 2}}
    path.write_text(json.dumps(content))
    kept = [r for r in costs(sweep) if r["task"] == TASK]
    assert [r["training_flops"] for r in kept] == [10 * first["updates"]] * 2
    assert [r["flops_per_chunk"] for r in kept] == [1, 2]
