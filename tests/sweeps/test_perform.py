"""A job's process: its exit, its log, and what is told of it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import qgf_ref.sweeps.perform as performing
from qgf_ref.files import sole_use
from qgf_ref.sweeps import forks, work
from qgf_ref.sweeps.perform import perform
from qgf_ref.sweeps.place import SweepPlace, read_json
from qgf_ref.sweeps.report import begin
from qgf_ref.sweeps.spec_file import spec_of
from tests.sweeps.conftest import tiny


def test_only_the_last_attempts_words_are_told(tmp_path: Path) -> None:
    """Of a data set that is not there: bad input, told in one line, after another attempt's log."""
    sweep = begin(spec_of(tiny()), SweepPlace(tmp_path), str(tmp_path / "nowhere"))
    job = sweep.wanted()[1][0]
    log = sweep.place.log(job.name)
    log.write_text("an earlier attempt\n" * 200)
    outcome = perform(sweep, job)
    assert (outcome.code, outcome.final) == (2, True)
    assert "an earlier attempt" not in outcome.said
    assert outcome.reason.startswith("no data set at")
    assert log.read_text().startswith("an earlier attempt")


def test_a_job_waits_for_one_that_saves_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = begin(spec_of(tiny()), SweepPlace(tmp_path), None)
    job = sweep.wanted()[1][0]
    holder = sole_use(sweep.place.lock(job.name), "")
    holder.__enter__()
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            holder.__exit__(None, None, None)

    monkeypatch.setattr(work.time, "sleep", sleep)
    with work._alone(sweep, job):
        assert len(waits) == 3


@pytest.fixture
def starters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[performing._Starter]]:
    """All that are started, in their order; none of other tests is there."""
    made: list[performing._Starter] = []
    begin_one = performing._Starter.__init__

    def begun(self: performing._Starter, *given: object) -> None:
        begin_one(self, *given)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(performing._Starter, "__init__", begun)
    monkeypatch.setattr(performing, "_waiting", {})
    yield made
    for starter in made:
        if not starter.ended:
            starter.end()


def test_jobs_are_forked_from_one_process(
    tmp_path: Path, starters: list[performing._Starter]
) -> None:
    """Each is a process of its own; one that is killed between two jobs is replaced."""
    sweep = begin(spec_of(tiny()), SweepPlace(tmp_path), str(tmp_path / "nowhere"))
    job = sweep.wanted()[1][0]
    pids = []
    for kills in (False, True, False):
        assert perform(sweep, job).code == 2
        note = read_json(sweep.place.note(job.name))
        assert note is not None
        pids.append(note["pid"])
        if kills:
            starters[0].process.kill()
            starters[0].process.wait()
    assert len(set(pids)) == 3
    if sys.platform == "linux":
        assert len(starters) == 2
        assert not {s.process.pid for s in starters} & set(pids)


def test_on_more_threads(tmp_path: Path, starters: list[performing._Starter]) -> None:
    """Where a library has threads, nothing is forked: the process is that of its first job."""
    sweep = begin(spec_of(tiny()), SweepPlace(tmp_path), str(tmp_path / "nowhere"))
    job = sweep.wanted()[1][0]
    for _ in range(2):
        outcome = perform(sweep, job, 2)
        assert (outcome.code, outcome.reason[:14]) == (2, "no data set at")
    assert all(s.ended or s.process.poll() is None for s in starters)


def test_no_fork_beside_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert not forks._may_fork()
    finally:
        done.set()
        thread.join()


def test_one_that_ended_before_its_order_came() -> None:
    """As one does to which none came for a while: there is no outcome, another is asked."""
    starter = performing._Starter.__new__(performing._Starter)
    starter.ended = False
    code = f"import sys; sys.stdin.readline(); sys.stdout.write({forks.IDLE.decode()!r})"
    starter.process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.code(b"an order\n", False) is None
    assert starter.ended
