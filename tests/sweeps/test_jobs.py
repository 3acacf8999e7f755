"""The graph of jobs, when one is done, and what is chosen."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qgf_ref.errors import InputError
from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.jobs import CHOSEN, Sweep, jobs_of
from qgf_ref.sweeps.place import read_json
from qgf_ref.sweeps.report import opened, status
from qgf_ref.sweeps.spec_file import spec_of
from qgf_ref.training.record import RECORD
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept, tiny

OTHER = TASK.replace("task1", "task2")


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
        ({"tasks": [TASK]}, "tasks"),
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
