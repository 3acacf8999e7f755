"""Working off a sweep: jobs are given to an runner when what they need is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qgf_ref.errors import InputError, QGFError, missing_package
from qgf_ref.files import write_json
from qgf_ref.progress import SILENT, Progress
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.perform import Outcome, perform
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.workers import check_workers


class RunnerLost(QGFError):
    """What does the jobs is gone; all that was done is kept."""


class JobRunner(Protocol):
    """What does jobs: this process, or the workers of a cluster."""

    def submit(self, job: SweepJob, attempt: int) -> None:
        """Take a job."""
        ...

    def next(self) -> Outcome:
        """Wait for one of those taken to end. Raises RunnerLost."""
        ...


class SerialRunner:
    """One job after the other, each in a process that this one waits for."""

    def __init__(self, sweep: Sweep, threads: int = 1) -> None:
        self.sweep, self.threads = sweep, threads
        self.waiting: deque[SweepJob] = deque()

    def submit(self, job: SweepJob, attempt: int) -> None:
        """Take a job."""
        self.waiting.append(job)

    def next(self) -> Outcome:
        """Do the job that was taken first."""
        return perform(self.sweep, self.waiting.popleft(), self.threads)


@contextmanager
def on_this_machine(sweep: Sweep, at_once: int) -> Iterator[JobRunner]:
    """A runner of so many jobs at once, each on one thread: of one, without Dask.

    Raises InputError where Dask is needed and is not installed.
    """
    if at_once <= 1:
        yield SerialRunner(sweep)
        return
    try:
        from qgf_ref.sweeps import dask_runner
    except ImportError as error:
        raise InputError(
            f"{missing_package(error.name) or error}; or give --workers 1, which needs no Dask"
        ) from error
    with dask_runner.local(at_once, 1) as client:
        check_workers(client, sweep.place)
        yield dask_runner.DaskRunner(sweep, client)


@dataclass
class Report:
    """What became of the jobs. failed: name → why; blocked: name → the failed job before it."""

    total: int
    there: int
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)


@contextmanager
def goes_on(root: Path) -> Iterator[None]:
    """While a sweep in `root` is worked off, Ctrl-C says what becomes of it."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"stopped; what was under way saves itself in {root}. The same command goes on"
        ) from error


def work_off(
    sweep: Sweep, runner: JobRunner, *, retries: int = 1, progress: Progress = SILENT
) -> Report:
    """Do what is not done. A job that fails is tried `retries` times more, unless its input is
    bad; what needs it is left, and everything else goes on.

    Raises InputError on a directory with other runs or results, RunnerLost.
    """
    every, wanted = sweep.wanted()
    report = Report(len(every), len(every) - len(wanted))
    waiting = {job.name: set(job.needs) for job in wanted}
    open_names = set(waiting)
    for needs in waiting.values():
        needs &= open_names
    jobs = {job.name: job for job in wanted}
    followers: dict[str, list[str]] = {}
    for name, needs in waiting.items():
        for need in needs:
            followers.setdefault(need, []).append(name)
    attempts: dict[str, int] = {}
    running = 0

    def submit(name: str) -> None:
        nonlocal running
        attempts[name] = attempts.get(name, 0) + 1
        runner.submit(jobs[name], attempts[name])
        running += 1

    def block(name: str, by: str) -> None:
        for follower in followers.get(name, ()):
            if follower not in report.blocked:
                report.blocked[follower] = by
                progress.advance()
                block(follower, by)

    for name in list(waiting):
        if not waiting[name]:
            submit(name)
    while running:
        outcome = runner.next()
        running -= 1
        name = outcome.job
        why = outcome.reason if outcome.code else ""
        if not why and not sweep.done(jobs[name]):
            why = "it ended without an error, and its result is not there"
        if why and not outcome.final and attempts[name] <= retries:
            report.retried[name] = attempts[name]
            submit(name)
            continue
        progress.advance()
        progress.say(f"{running} under way; last {name}")
        if why:
            report.failed[name] = why
            note = {"job": name, "state": "failed", "why": why, "attempts": attempts[name],
                    "host": outcome.host, "seconds": round(outcome.seconds, 2)}  # fmt: skip
            write_json(sweep.place.note(name), note)
            block(name, name)
            continue
        report.done.append(name)
        for follower in followers.get(name, ()):
            waiting[follower].discard(name)
            if not waiting[follower] and follower not in report.blocked:
                submit(follower)
    return report
