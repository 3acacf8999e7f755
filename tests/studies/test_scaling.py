"""Success against the size of the networks: what is trained, what is measured, slopes by hand."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import qgf_ref.sweeps
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError, QGFError
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.scaling import measures
from qgf_ref.studies.scaling import study as scaling
from qgf_ref.studies.scaling.ladders import SizeResults, per_doubling, slope, slopes
from qgf_ref.studies.scaling.measures import rise
from qgf_ref.studies.scaling.sizes import GRID, NetworkSize, ScalingGrid
from qgf_ref.sweeps import driver
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.perform import Outcome
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.work import do
from qgf_ref.training.record import Record
from tests.data.synthetic import DATASET, TASK, write_dataset
from tests.studies.lines import drawn
from tests.sweeps import stub

TINY = ScalingGrid(
    {
        "width": (NetworkSize(1, 4), NetworkSize(1, 8)),
        "depth": (NetworkSize(1, 4), NetworkSize(2, 4)),
    },
    seeds=2, updates=12, log_every=4, weights=(0.1, 1.0), bc_weights=(1.0, 10.0), selection=2,
    held_out=4, timing_rounds=1,
)  # fmt: skip


def results(width: int, parameters: int, qgf: list[int], edp: list[int]) -> SizeResults:
    """Two training seeds of two episodes: successes of each."""
    runs = [{"parameters": parameters, "bc_loss": 1.0, "critic_loss": float(i)} for i in range(2)]
    wins = {
        name: [[1] * n + [0] * (2 - n) for n in each]
        for name, each in {"bc": [0, 0], "qgf": qgf, "edp": edp}.items()
    }
    agents = {"iql": runs, "edp": runs}
    return SizeResults(NetworkSize(3, width), agents, wins, {}, {}, {})


def test_slopes_by_hand() -> None:
    assert slope([0, 1, 2], [1, 1, 4]) == pytest.approx(1.5)
    with pytest.raises(InputError, match="two sizes at least"):
        slope([3, 3], [0, 1])
    # twice and eight times the parameters; successes of seed 0: 0, 0.5, 1, of seed 1: 0.5, 0.5, 1
    ladder = [
        results(8, 100, [0, 1], [0, 0]),
        results(16, 200, [1, 1], [0, 1]),
        results(64, 800, [2, 2], [0, 0]),
    ]
    x = np.array([0.0, 1.0, 3.0]) - 4 / 3
    by_seed = [x @ [0, 0.5, 1] / (x @ x), x @ [0.5, 0.5, 1] / (x @ x)]
    mean, half = np.mean(by_seed), 12.7062047362 * np.std(by_seed, ddof=1) / np.sqrt(2)
    found = per_doubling(ladder, [each.success("qgf") for each in ladder])
    np.testing.assert_allclose(found, (mean, mean - half, mean + half), rtol=1e-9)

    rows = {(r["quantity"], r["of"]): r for r in slopes("width", ladder)}
    edp = rows["success", "edp"]["per_doubling"]
    assert edp == pytest.approx((x @ [0, 0, 0] + x @ [0, 0.5, 0]) / (x @ x) / 2)
    assert rows["success", "qgf − edp"]["per_doubling"] == pytest.approx(mean - edp)
    assert rows["bc_loss", "iql"]["per_doubling"] == 0
    first = rows["success", "bc"]
    assert (first["from"], first["to"], first["sizes"]) == ("3×8", "3×64", 3)


def test_how_far_a_loss_rises() -> None:
    assert rise([3.0, 2.0, 1.0]) == 0
    assert rise([4.0, 2.0, 3.0, 1.0, 1.2]) == pytest.approx(0.5)
    with pytest.raises(InputError, match="at least one value"):
        rise([])


def test_updates_per_second_by_a_clock_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call, which compiles, and all but the fastest of a round count for nothing."""
    now = 0.0
    rounds = {
        "slow": [[9, 2.0, 9, 9, 9], [9, 9, 8.0, 9, 9], [4.0, 9, 9, 9, 9]],
        "fast": [[1.0, 9, 9, 9, 9], [0.5, 9, 9, 9, 9], [0.25, 9, 9, 9, 9]],
    }

    def update(run: Path, data: object) -> Callable[[], object]:
        durations = iter([100.0, *(s for each in rounds[run.name] for s in each)])

        def once() -> None:
            nonlocal now
            now += next(durations)

        return once

    monkeypatch.setattr(measures, "_update", update)
    monkeypatch.setattr(measures, "process_time", lambda: now)
    runs = {name: Path(name) for name in rounds}
    found = measures.updates_per_second(runs, cast(Any, None), 3)
    assert found == {"slow": 1 / 4.0, "fast": 1 / 0.5}


def test_what_is_trained() -> None:
    sizes = [str(size) for size in GRID.sizes]
    assert sizes == ["3×32", "3×256", "1×256"]
    spec = GRID.spec(TASK, 5)
    assert spec.seeds == (5, 6, 7)
    by_name = {entry.name: entry for entry in spec.entries}
    assert len(by_name) == 2 * len(sizes)
    trained = by_name["edp_3x32"]
    assert trained.tried == {"bc_weight": (30.0, 100.0, 300.0)}
    assert trained.try_seeds == (5,)
    config = spec.config(trained, TASK, 5, "bc_weight=30")
    assert (config.hidden, config.updates, config.agent) == ((32,) * 3, 10_000, "edp")
    assert spec.config(by_name["iql_1x256"], TASK, 5).hidden == (256,)
    with pytest.raises(InputError, match="task"):
        GRID.spec("no-such-task", 0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training as it is, in this process; episodes stubbed. Returns the jobs that are done."""
    jobs: list[str] = []

    def perform(sweep: Sweep, job: SweepJob, threads: int = 1) -> Outcome:
        jobs.append(job.name)
        if job.kind != "train":
            return stub.perform(sweep, job, threads)
        return Outcome(job.name, do(sweep, job), 0.0, "here")

    monkeypatch.setattr(driver, "perform", perform)
    monkeypatch.setattr(scaling, "GRID", TINY)
    return jobs


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    place = tmp_path / "data"
    place.mkdir()
    write_dataset(place, count=6, steps=41)
    return StudySettings(task=TASK, data=str(place), workers=1, records=tmp_path / "runs")


def test_the_study(
    in_this_process: list[str],
    settings: StudySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = scaling.study(settings)
    counts = {kind: sum(job.startswith(kind) for job in in_this_process)
              for kind in ("train", "try", "evaluate")}  # fmt: skip
    assert counts == {"train": 3 * (2 + 3), "try": 6, "evaluate": 6}
    _check(found, settings, tmp_path)
    assert drawn("scaling", found) == {""}
    assert max(map(len, found.text.splitlines())) <= 100, found.text

    # everything is there: nothing is done again, and only clocks tell another thing
    in_this_process.clear()
    again = scaling.study(settings)
    assert not in_this_process
    assert again.tables[""] == found.tables[""]
    assert again.tables["slopes"] == found.tables["slopes"]
    assert again.tables["runs"] == found.tables["runs"]

    monkeypatch.setattr(scaling, "GRID", ScalingGrid(TINY.ladders, seeds=2, updates=13))
    with pytest.raises(InputError, match="belongs to another sweep"):
        scaling.study(settings)
    monkeypatch.setattr(scaling, "GRID", TINY)
    assert settings.records is not None
    shutil.rmtree(settings.records / "runs")
    with pytest.raises(InputError, match="measures its runs, not only their results: remove"):
        scaling.study(settings)


def _check(found: StudyOutcome, settings: StudySettings, tmp_path: Path) -> None:
    assert settings.records is not None
    runs = list(found.tables["runs"])
    assert len(runs) == 3 * 2 * 2
    for row in runs:
        place = settings.records / "runs" / TASK / f"{row['agent']}_{row['depth']}x{row['width']}"
        options = sorted(place.glob(f"**/seed{row['seed']}"))
        logged = [json.loads((path / "train.json").read_text()) for path in options]
        assert row["parameters"] == logged[0]["networks"]["parameters"]
        last = [(path / "metrics.csv").read_text().splitlines() for path in options]
        names = last[0][0].split(",")
        ends = [dict(zip(names, map(float, lines[-1].split(",")), strict=True)) for lines in last]
        # the run that was chosen; its critic's loss does not depend on how its flow is trained
        assert row["critic_loss"] in [end["validation_critic"] for end in ends]
        if row["agent"] == "iql":
            assert row["bc_loss"] == ends[0]["validation_policy"]
            assert row["bc_rise"] >= 0
            assert row["success_edp"] is None
        else:
            assert row["bc_rise"] is None
    # networks and targets in float32, and two moments of all but the target
    iql = runs[0]
    (record,) = (settings.records / "runs" / TASK / "iql_1x4").glob("seed0")
    assert Record.read(record).config.hidden == (4,)
    config, state = measures.saved(record)
    target = sum(a.size for a in vars(state.train.networks)["target_critic"].params.arrays())
    assert iql["state_bytes"] == 4 * (3 * iql["parameters"] - 2 * target)

    # a run that was stopped twice: the most that one of its processes took
    content = json.loads((record / "train.json").read_text())
    (session,) = content["sessions"]
    peaks = (5, 70, None, 60)
    content["sessions"] = [{**session, "peak_process_bytes": peak} for peak in peaks]
    stopped = tmp_path / "stopped"
    shutil.copytree(record, stopped)
    (stopped / "train.json").write_text(json.dumps(content))
    data = measures.HeldOutData.of(config)
    assert measures.measured(stopped, data)["peak_process_bytes"] == 70

    rows = list(found.tables[""])
    assert [(r["method"], r["size"]) for r in rows[:3]] == [
        ("bc", "1×4"), ("qgf", "1×4"), ("edp", "1×4"),
    ]  # fmt: skip
    for row in rows:
        assert row["episodes"] == 8
        mine = [r[f"success_{row['method']}"] for r in runs
                if (r["size"], r["agent"]) == (row["size"], row["agent"])]  # fmt: skip
        assert row["success"] == pytest.approx(np.mean(mine))
        rival = next(r for r in rows if (r["method"], r["size"]) == ("edp", row["size"]))
        if row["method"] == "edp":
            assert row["minus_edp"] is None
            assert row["chosen"].startswith("bc_weight=")
        else:
            assert row["minus_edp"] == pytest.approx(row["success"] - rival["success"])
    assert all(row["updates_per_second"] > 0 for row in found.tables["costs"])
    assert {row["ladder"] for row in found.tables["slopes"]} == {"width", "depth"}


def test_a_job_that_fails_is_told_and_the_rest_is_done(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(sweep: Sweep, job: SweepJob, threads: int = 1) -> Outcome:
        if job.entry == "edp_2x4":
            return Outcome(job.name, 2, 0.0, "here", "the loss is not finite")
        return stub.perform(sweep, job, threads)

    monkeypatch.setattr(driver, "perform", perform)
    monkeypatch.setattr(scaling, "QUICK", TINY)
    with pytest.raises(QGFError, match=r"failed .* the loss is not finite. Its log: .*goes on"):
        scaling.study(replace(settings, quick=True))
    assert settings.records is not None
    # in a directory of its own: the whole study may follow in the same --out
    done = {path.name for path in (settings.records / "quick" / "results" / TASK).iterdir()}
    assert "iql_2x4.json" in done
    assert "edp_2x4.json" not in done


def test_stopped_it_says_that_it_goes_on(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qgf_ref.studies.scaling.runs.work_off", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"saves itself in .*\. The same command goes on"):
        scaling.study(settings)


def test_refusals(
    in_this_process: list[str],
    settings: StudySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError, match="takes no --estimators"):
        scaling.study(StudySettings(estimators=("qgf",), records=tmp_path))
    with pytest.raises(InputError, match="needs a directory"):
        scaling.study(StudySettings())
    here = ["--task", TASK, "--data", str(settings.data), "--out", str(tmp_path / "lab")]
    assert main(["study", "scaling", "--checkpoint", "runs", *here]) == 2
    assert "trains its own networks: it takes no --checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "qgf_ref.sweeps.dask_runner", raising=False)
        without.delattr(qgf_ref.sweeps, "dask_runner", raising=False)
        for package in ("dask", "distributed"):
            without.setitem(sys.modules, package, None)
        assert main(["study", "scaling", *here]) == 2
    said = capsys.readouterr().err
    assert 'pip install "qgf_ref[cluster]"; or give --workers 1' in said
    (Path(str(settings.data)) / f"{DATASET}-val.npz").unlink()
    in_this_process.clear()
    assert main(["study", "scaling", "--workers", "1", *here]) == 2
    assert f"{DATASET}-val.npz is missing there" in capsys.readouterr().err
    assert main(["study", "scaling", "--workers", "1", "--data", "nowhere", *here[:2]]) == 2
    assert "no data set at" in capsys.readouterr().err
    assert not in_this_process, "refused before hours of training"
