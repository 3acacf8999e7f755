"""A real Dask cluster: workers and schedulers that die, and the same tables byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.sweeps import dask_runner
from qgf_ref.sweeps.driver import RunnerLost, SerialRunner, on_this_machine, work_off
from qgf_ref.sweeps.jobs import SweepJob, jobs_of
from qgf_ref.sweeps.perform import Outcome, perform
from qgf_ref.sweeps.place import SweepPlace, read_json
from qgf_ref.sweeps.report import begin, write_tables
from qgf_ref.sweeps.spec_file import spec_of
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.workers import check_workers
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept, tiny

TABLES = ("table.csv", "table.md", "table.json")
BITS = ("model.safetensors", "state.safetensors", "metrics.csv")


def longer(data: Path, root: Path) -> Sweep:
    """A sweep whose trainings and evaluations last long enough to be killed in the middle."""
    train = {**tiny()["train"], "updates": 400, "checkpoint_every": 50, "log_every": 50}
    evaluate = {**tiny()["evaluate"], "episodes": 6}
    agents = {"iql": {"methods": ["bc", "qgf"]}, "edp": {}}
    spec = spec_of(tiny(train=train, evaluate=evaluate, agents=agents))
    return begin(spec, SweepPlace(root), str(data))


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in one process, without Dask."""
    sweep = longer(data, tmp_path_factory.mktemp("alone"))
    assert not work_off(sweep, SerialRunner(sweep)).failed
    write_tables(sweep)
    return sweep.place.root


def same(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    runs = sorted(p.relative_to(one) for p in one.glob("runs/**/train.json"))
    assert runs
    for run in runs:
        for name in BITS:
            mine, theirs = ((root / run).with_name(name).read_bytes() for root in (one, other))
            assert mine == theirs, run.with_name(name)


def under_way(sweep: Sweep, kind: str) -> dict[str, Any] | None:
    """The note of a job of that kind that runs and has itself left something behind."""
    for job in jobs_of(sweep.spec):
        note = read_json(sweep.place.note(job.name)) if job.kind == kind else None
        if note is None or note["state"] != "running":
            continue
        if job.seed is None:
            left = sweep.place.records(job.task, job.entry).rglob("records.jsonl")
        else:
            run = sweep.place.run(job.task, job.entry, job.value, job.seed)
            left = run.glob("state.safetensors")
        if any(left):
            return note
    return None


def kill_workers(sweep: Sweep, killed: list[int], over: threading.Event) -> Callable[[], None]:
    """A thread's work: SIGKILL to the worker above a training, then above an evaluation."""

    def work() -> None:
        for kind in ("train", "evaluate"):
            while not over.is_set():
                note = under_way(sweep, kind)
                worker = None if note is None else worker_above(note["pid"])
                if worker is not None:
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                    break
                time.sleep(0.02)

    return work


def worker_above(job: int) -> int | None:
    """What started the process that a job's was forked from."""
    starter = parent(job)
    return None if starter is None else parent(starter)


def parent(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_killed_workers_change_nothing(
    data: Path, alone: Path, tmp_path: Path, workers: int
) -> None:
    sweep, killed = longer(data, tmp_path), list[int]()
    over = threading.Event()
    thread = threading.Thread(target=kill_workers(sweep, killed, over))
    with dask_runner.local(workers, 1) as client:
        assert check_workers(client, sweep.place) == workers
        thread.start()
        try:
            report = work_off(sweep, dask_runner.DaskRunner(sweep, client), retries=1)
        finally:
            over.set()
            thread.join()
    assert not report.failed
    assert len(killed) == 2
    write_tables(sweep)
    same(alone, tmp_path)
    sessions = [json.loads(p.read_text())["sessions"] for p in tmp_path.glob("runs/**/train.json")]
    assert max(map(len, sessions)) == 2, "the training that lost its worker went on from a save"


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Callable[[], tuple[str, list[subprocess.Popen[bytes]]]]]:
    """Starts a scheduler and two workers as processes of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[str, list[subprocess.Popen[bytes]]]:
        file = tmp_path / f"scheduler-{len(started)}.json"
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = ["--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
        processes = [subprocess.Popen([*dask, *words], **quiet)]
        started.extend(processes)
        until = time.monotonic() + 60
        while not (file.exists() and file.read_text().strip()) and time.monotonic() < until:
            time.sleep(0.1)
        address = str(json.loads(file.read_text())["address"])
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        worker += ["--no-nanny", "--no-dashboard"]
        for _ in range(2):
            processes.append(subprocess.Popen(worker, **quiet))
        started.extend(processes[1:])
        return address, processes

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_started_again(
    data: Path,
    alone: Path,
    tmp_path: Path,
    scheduler: Callable[[], tuple[str, list[subprocess.Popen[bytes]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(dask_runner._PATIENCE, dask_runner._GONE, 2.0)
    sweep = longer(data, tmp_path / "sweep")
    address, processes = scheduler()

    def kill() -> None:
        until = time.monotonic() + 120
        while under_way(sweep, "train") is None and time.monotonic() < until:
            time.sleep(0.02)
        processes[0].kill()

    with dask_runner.running(address) as client:
        check_workers(client, sweep.place)
        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(RunnerLost, match="is gone; everything that was done is kept"):
            work_off(sweep, dask_runner.DaskRunner(sweep, client))
        thread.join()
    for process in processes[1:]:  # what they were at saves itself, and is waited for
        process.kill()
    address, _ = scheduler()
    with dask_runner.running(address) as client:
        check_workers(client, sweep.place)
        assert not work_off(sweep, dask_runner.DaskRunner(sweep, client)).failed
    write_tables(sweep)
    same(alone, sweep.place.root)


def dies(sweep: Sweep, job: SweepJob, threads: int) -> Outcome:
    """Kills its worker at one job, once; else the stub."""
    mark = sweep.place.root / "killed"
    if job.name == f"train {TASK}/iql/seed0" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return stub.perform(sweep, job)


def always_dies(sweep: Sweep, job: SweepJob, threads: int) -> Outcome:
    """Kills every worker at one job, as one does that needs too much memory."""
    if job.name == f"train {TASK}/iql/seed0":
        os.kill(os.getpid(), signal.SIGKILL)
    return stub.perform(sweep, job)


def raises(sweep: Sweep, job: SweepJob, threads: int) -> Outcome:
    """Fails in the worker itself."""
    if job.name == f"train {TASK}/iql/seed0":
        raise OSError("no space left")
    return stub.perform(sweep, job)


@pytest.mark.filterwarnings("ignore")
def test_workers_that_die_at_stubbed_work(tmp_path: Path) -> None:
    first = f"train {TASK}/iql/seed0"
    with dask_runner.local(2, 1) as client:
        sweep = swept(tmp_path / "once")
        assert check_workers(client, sweep.place) == 2
        report = work_off(sweep, dask_runner.DaskRunner(sweep, client, performs=dies), retries=0)
        assert not report.failed
        assert (tmp_path / "once" / "killed").exists()
        sweep = swept(tmp_path / "error")
        report = work_off(sweep, dask_runner.DaskRunner(sweep, client, performs=raises), retries=1)
        assert report.failed == {first: "OSError: no space left"}
        assert f"evaluate {TASK}/edp" in report.done


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_kills_every_worker(tmp_path: Path, workers: int) -> None:
    """Those that wait for the same worker are not blamed: with one, that is every other job."""
    first = f"train {TASK}/iql/seed0"
    with dask_runner.local(workers, 1) as client:
        sweep = swept(tmp_path / "always")
        runner = dask_runner.DaskRunner(sweep, client, performs=always_dies)
        report = work_off(sweep, runner, retries=0)
        assert list(report.failed) == [first]
        assert "4 Dask workers died at it: out of memory?" in report.failed[first]
        assert f"train {TASK}/iql/seed1" in report.done
        assert f"evaluate {TASK}/edp" in report.done
    assert not list((tmp_path / "always" / "jobs").glob(".*.begun"))


@pytest.mark.filterwarnings("ignore")
def test_workers_of_this_machine_that_do_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are not waited for; those of a queue would be."""
    monkeypatch.setitem(dask_runner._PATIENCE, dask_runner._NOBODY, 0.5)
    sweep = swept(tmp_path)
    with dask_runner.local(1, 1) as client:
        client.cluster.scale(0)
        runner = dask_runner.DaskRunner(sweep, client, performs=raises)
        with pytest.raises(RunnerLost, match="none came back: out of memory"):
            work_off(sweep, runner)


def test_runners_of_this_machine(tmp_path: Path) -> None:
    """Of one job at once without Dask, of two on a cluster, which tells why a job failed."""
    sweep = begin(spec_of(tiny()), SweepPlace(tmp_path), str(tmp_path / "nowhere"))
    with on_this_machine(sweep, 1) as one:
        assert isinstance(one, SerialRunner)
    with on_this_machine(sweep, 2) as runner:
        assert isinstance(runner, dask_runner.DaskRunner)
        report = work_off(sweep, runner)
    ((name, why),) = report.failed.items()
    assert name.startswith("data ")
    assert why.startswith("no data set at")


@pytest.mark.slow
def test_what_a_job_was_forked_from_is_killed(data: Path, alone: Path, tmp_path: Path) -> None:
    """The job saves itself; the next attempt waits for that, and goes on from there."""
    sweep, killed = longer(data, tmp_path), list[int]()

    def kill() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            note = under_way(sweep, "train")
            starter = None if note is None else parent(note["pid"])
            if starter is not None:
                os.kill(starter, signal.SIGKILL)
                killed.append(starter)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    report = work_off(sweep, SerialRunner(sweep), retries=1)
    thread.join()
    assert not report.failed
    assert len(report.retried) == len(killed) == 1
    write_tables(sweep)
    same(alone, tmp_path)


@pytest.mark.slow
def test_a_job_left_alone_saves_itself(data: Path, tmp_path: Path) -> None:
    """Its process ends when the one that ordered it is gone, and is waited for by the next."""
    sweep = longer(data, tmp_path)
    job = next(job for job in sweep.wanted()[1] if job.kind == "train")
    code = (
        "import os, threading, time, signal\n"
        "from pathlib import Path\n"
        "from qgf_ref.sweeps.perform import perform\n"
        "from qgf_ref.sweeps.report import opened\n"
        f"sweep = opened(Path({str(tmp_path)!r}))\n"
        "job = next(j for j in sweep.wanted()[1] if j.kind == 'train')\n"
        "def end():\n"
        "    while not list(sweep.place.root.glob('runs/**/state.safetensors')): time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=end).start()\n"
        "perform(sweep, job)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd())
    assert killed.returncode == -signal.SIGKILL
    outcome = perform(sweep, job)
    assert outcome.code == 0, outcome.said
    sessions = json.loads((sweep.run(job) / "train.json").read_text())["sessions"]
    assert [s["to_update"] for s in sessions][1:] == [400]
    assert sessions[0]["to_update"] < 400
