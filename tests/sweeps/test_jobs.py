"""The graph of jobs, when one is done, and what is chosen."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qgf_ref.errors import InputError
from qgf_ref.files import sole_use
from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.jobs import CHOSEN, jobs_of
from qgf_ref.sweeps.place import SweepPlace, read_json
from qgf_ref.sweeps.report import begin, opened, status
from qgf_ref.sweeps.spec_file import spec_of
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.table import gather
from qgf_ref.sweeps.work import do
from qgf_ref.training.record import RECORD
from tests.data.synthetic import DATASET, TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept, tiny

OTHER, THIRD = (TASK.replace("task1", name) for name in ("task2", "task3"))


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgf_ref.sweeps.driver.perform", stub.perform)


def test_the_graph() -> None:
    jobs = {job.name: job for job in jobs_of(spec_of(tiny()))}
    seen: set[str] = set()
    for job in jobs.values():  # in order
        assert set(job.needs) <= seen, job.name
        seen.add(job.name)
    edp = f"{TASK}/edp"
    assert jobs[f"evaluate {edp}"].needs == (
        f"train {edp}/bc_weight=1/seed0", f"train {edp}/bc_weight=10/seed0",
        f"train {edp}/{CHOSEN}/seed1", f"try {edp}/bc_weight=1", f"try {edp}/bc_weight=10",
    )  # fmt: skip
    assert jobs[f"beside {TASK}/iql/seed1/cfgrl"].needs == (f"train {TASK}/iql/seed1",)
    names = list(jobs)
    assert names.index(f"train {edp}/bc_weight=1/seed0") < names.index(f"train {TASK}/iql/seed1")
    tries = spec_of(tiny(agents={"edp": {"try": {"bc_weight": [1.0, 10.0]}}}))
    kinds = [job.kind for job in jobs_of(tries)]
    assert [kinds.count(k) for k in ("data", "train", "try", "evaluate")] == [1, 4, 2, 1]


def test_networks_beside_a_chosen_run() -> None:
    agents = {
        "iql": {"try": {"expectile": [0.7, 0.9]}, "try_seeds": [0], "extra": ["cfgrl"]},
    }  # fmt: skip
    jobs = {job.name: job for job in jobs_of(spec_of(tiny(agents=agents)))}
    first = jobs[f"beside {TASK}/iql/{CHOSEN}/seed0/cfgrl"]
    assert f"try {TASK}/iql/expectile=0.7" in first.needs
    assert f"beside {TASK}/iql/{CHOSEN}/seed1/cfgrl" in jobs


@pytest.mark.usefixtures("stubbed")
def test_done_is_what_the_files_say(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    report = work_off(sweep, SerialRunner(sweep))
    assert len(report.done) == 12
    assert not report.failed
    assert sweep.wanted()[1] == []
    assert {state.state for state in status(sweep)} == {"done"}
    # a result stays one when its runs are gone
    record = sweep.place.run(TASK, "iql", "", 1) / RECORD
    content = json.loads(record.read_text())
    shutil.rmtree(record.parent)
    assert sweep.wanted()[1] == []
    assert [s.job.name for s in status(sweep) if s.state == "not needed"] == [
        f"train {TASK}/iql/seed1", f"beside {TASK}/iql/seed1/cfgrl"
    ]  # fmt: skip
    # without the result, what is missing is made again, and nothing else
    sweep.place.result(TASK, "iql").unlink()
    names = [job.name for job in sweep.wanted()[1]]
    assert names == [
        f"train {TASK}/iql/seed1", f"beside {TASK}/iql/seed1/cfgrl", f"evaluate {TASK}/iql"
    ]  # fmt: skip
    # a run that is not finished, one that is longer, and one of other settings
    record.parent.mkdir()
    for updates, state in ((23, False), (24, True), (25, False)):
        content["sessions"][0]["to_update"] = updates
        record.write_text(json.dumps(content))
        job = next(j for j in sweep.wanted()[0] if j.name == f"train {TASK}/iql/seed1")
        assert sweep.done(job) is state
    content["config"]["batch"] = 8
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"other settings \(batch 8 there, 7 here\): move it away"):
        sweep.done(job)


@pytest.mark.usefixtures("stubbed")
def test_the_choice(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    entry = sweep.spec.entry("edp")
    assert sweep.chosen(TASK, entry) is None
    work_off(sweep, SerialRunner(sweep))

    def say(value: str, wins: list[int], returns: list[float]) -> None:
        path = sweep.place.result(TASK, "edp", value)
        content = read_json(path)
        assert content is not None
        content["cells"][0]["by_seed"] = [{"wins": wins, "returns": returns, "lengths": [1, 1]}]
        path.write_text(json.dumps(content))

    for first, second, chosen in (
        (([1, 0], [-5.0, -9.0]), ([0, 0], [-1.0, -1.0]), "bc_weight=1"),
        (([1, 0], [-5.0, -9.0]), ([1, 1], [-9.0, -9.0]), "bc_weight=10"),
        (([1, 0], [-5.0, -9.0]), ([0, 1], [-4.0, -9.0]), "bc_weight=10"),
        (([1, 0], [-5.0, -9.0]), ([0, 1], [-9.0, -5.0]), "bc_weight=1"),
    ):
        say("bc_weight=1", *first)
        say("bc_weight=10", *second)
        assert sweep.chosen(TASK, entry) == chosen


def test_a_sweep_may_grow_and_not_change(tmp_path: Path) -> None:
    swept(tmp_path)
    grown = swept(
        tmp_path, tasks=[TASK, OTHER], agents={**tiny()["agents"], "fql": {"methods": ["bc"]}}
    )
    assert len(grown.spec.tasks) == 2
    assert opened(tmp_path).spec == grown.spec
    for changes, message in (
        ({"tasks": [TASK, OTHER], "seeds": [0, 1, 2]}, "seeds"),
        (
            {"tasks": [TASK, OTHER], "train": {**tiny()["train"], "updates": 25}},
            "train.updates 24 there, 25 here",
        ),
        (
            {"tasks": [TASK, OTHER], "agents": {**tiny()["agents"], "iql": {"methods": ["bc"]}}},
            r'agents\.iql\.methods \["bc", "qgf", "cfgrl"\] there, \["bc"\] here',
        ),
        ({"tasks": [TASK, OTHER]}, "agents.fql"),
        ({"tasks": [TASK]}, "tasks other values there, " + re.escape(f'["{TASK}"] here')),
        ({"tasks": [THIRD]}, f'"{THIRD}".* here'),
    ):
        with pytest.raises(InputError, match=f"belongs to another sweep.*{message}"):
            swept(tmp_path, **changes)
    assert opened(tmp_path).spec == grown.spec
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no sweep's: give another --out"):
        swept(tmp_path)
    with pytest.raises(InputError, match=r"holds no sweep: begin one"):
        opened(tmp_path / "nowhere")


@pytest.mark.usefixtures("stubbed")
def test_a_result_of_other_settings_is_refused(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    work_off(sweep, SerialRunner(sweep))
    spec = replace(sweep.spec, train={**sweep.spec.train, "batch": 8})
    other = Sweep(spec, sweep.place)
    with pytest.raises(InputError, match=r"run\.batch 7 there, 8 here\): move it away"):
        other.wanted()
    path = sweep.place.result(TASK, "iql")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"iql\.json is damaged .*: remove it"):
        sweep.wanted()


@pytest.mark.usefixtures("stubbed")
def test_another_data_set_is_refused(tmp_path: Path) -> None:
    """For runs and for results, wherever the other one comes from."""
    sweep = swept(tmp_path / "sweep")
    work_off(sweep, SerialRunner(sweep))
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{DATASET}.npz").write_bytes(b"of another seed")
    moved = swept_with(sweep, other)
    with pytest.raises(InputError, match=r"iql\.json was made with another data set"):
        moved.wanted()
    shutil.rmtree(sweep.place.root / "results")
    with pytest.raises(InputError, match=r"seed[01] was trained on another data set"):
        swept_with(sweep, other).wanted()
    # the same files elsewhere are the same data set
    same = tmp_path / "same"
    shutil.copytree(sweep.place.root / "data", same)
    assert swept_with(sweep, same).wanted()[1]
    # and results without their data set, on another machine, are taken as they are
    fresh = swept(tmp_path / "fresh")
    work_off(fresh, SerialRunner(fresh))
    shutil.rmtree(fresh.place.root / "data")
    assert swept_with(fresh, tmp_path / "nowhere").wanted()[1] == []


def swept_with(sweep: Sweep, data: Path) -> Sweep:
    return Sweep(sweep.spec, sweep.place, str(data))


@pytest.mark.usefixtures("stubbed")
def test_a_network_beside_of_other_settings_is_refused(tmp_path: Path) -> None:
    sweep = swept(tmp_path, extra={"updates": 8, "batch": 7})
    work_off(sweep, SerialRunner(sweep))
    sweep.place.result(TASK, "iql").unlink()
    made = sweep.place.run(TASK, "iql", "", 0) / "cfgrl.json"
    made.write_text(json.dumps({"update": 8, "config": {"batch": 999}}))
    with pytest.raises(InputError, match=r"other settings \(batch 999 there, 7 here\)"):
        sweep.wanted()


@pytest.mark.usefixtures("stubbed")
def test_runs_that_lost_the_choice_are_not_made_again(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    work_off(sweep, SerialRunner(sweep))
    chosen = sweep.chosen(TASK, sweep.spec.entry("edp"))
    shutil.rmtree(tmp_path / "runs")
    sweep.place.result(TASK, "edp").unlink()
    names = [job.name for job in sweep.wanted()[1]]
    assert names == [
        f"train {TASK}/edp/{chosen}/seed0", f"train {TASK}/edp/{CHOSEN}/seed1",
        f"evaluate {TASK}/edp",
    ]  # fmt: skip


def test_one_method_decides_among_values() -> None:
    def deciding(**table: Any) -> str:
        tried = {"try": {"expectile": [0.7, 0.9]}, **table}
        return spec_of(tiny(agents={"iql": tried})).entries[0].deciding.label

    assert deciding() == "qgf", "bc does not depend on the critic"
    assert deciding(methods=["bc", "bfn-4"]) == "bc"
    assert deciding(methods=["bc", "bfn-4", "qgf", "ood"], try_by="bfn-4") == "bfn-4"


@pytest.mark.usefixtures("stubbed")
def test_what_is_optimistic_of_tried_values(tmp_path: Path) -> None:
    """Over values and weights for the method that decides, over weights for others."""
    agents = {"iql": {"try": {"expectile": [0.7, 0.9]}, "methods": ["bc", "qgf"]}}
    sweep = swept(tmp_path, agents=agents)
    work_off(sweep, SerialRunner(sweep))
    path = sweep.place.result(TASK, "iql")
    content = json.loads(path.read_text())
    content |= {"tried_by": "qgf", "tried": [{"value": "expectile=0.7", "success": 0.9}]}
    for cell in content["cells"]:
        for each in cell["by_seed"]:
            each["wins"] = [1, 0] if cell["weight"] == 1.0 else [0, 0]
    path.write_text(json.dumps(content))
    bc, qgf = gather(sweep)[0]
    assert bc.optimistic[TASK] is None
    assert qgf.optimistic[TASK] == 0.9
    content["tried"][0]["success"] = 0.1
    path.write_text(json.dumps(content))
    assert gather(sweep)[0][1].optimistic[TASK] == 0.5


def test_growth_brings_its_own_data_and_networks(tmp_path: Path) -> None:
    edp: dict[str, Any] = {"edp": {}}
    begin(spec_of(tiny(agents=edp)), SweepPlace(tmp_path), None)
    scene = "scene-play-singletask-task1-v0"
    grown = tiny(
        tasks=[TASK, scene], collect={"scene-play-v0": 3}, extra={"updates": 9},
        agents={**edp, "iql": {"methods": ["cfgrl"], "extra": ["cfgrl"]}}, baseline="edp",
    )  # fmt: skip
    begin(spec_of(grown), SweepPlace(tmp_path), None)
    for changes, message in (
        ({"extra": {"updates": 10}}, "extra.updates 9 there, 10 here"),
        ({"collect": {"scene-play-v0": 4}}, "collect.scene-play-v0 3 there, 4 here"),
    ):
        with pytest.raises(InputError, match=message):
            begin(spec_of({**grown, **changes}), SweepPlace(tmp_path), None)


def test_the_data_are_remembered(tmp_path: Path) -> None:
    spec = spec_of(tiny())
    begin(spec, SweepPlace(tmp_path), "/data")
    assert begin(spec, SweepPlace(tmp_path), None).data == "/data"
    assert opened(tmp_path).data == "/data"
    assert begin(spec, SweepPlace(tmp_path), "/moved").data == "/moved"


def test_what_is_begun_is_under_way_or_stopped(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    job = sweep.wanted()[1][0]
    sweep.place.note(job.name).write_text(json.dumps({"state": "running", "host": "there"}))

    def state() -> str:
        return next(s.state for s in status(sweep) if s.job.name == job.name)

    assert state() == "stopped"
    with sole_use(sweep.place.lock(job.name), ""):
        assert state() == "under way"
    assert state() == "stopped"


def test_networks_beside_are_trained_as_the_spec_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = swept(tmp_path, extra={"updates": 8, "batch": 5, "hidden": [4]})
    seen: dict[str, Any] = {}

    def train(agent: Any, run: Path, changes: dict[str, Any]) -> Any:
        seen.update(changes, agent=agent.name, run=run)
        return SimpleNamespace(signal=15)

    monkeypatch.setattr("qgf_ref.training.beside.train_beside", train)
    job = next(job for job in sweep.wanted()[1] if job.kind == "beside")
    assert do(sweep, job) == 143
    assert (seen["agent"], seen["run"]) == ("cfgrl", sweep.run(job))
    assert (seen["updates"], seen["batch"], seen["hidden"]) == (8, 5, (4,))
    assert seen["data"] == str(tmp_path / "data")
