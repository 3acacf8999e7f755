"""Working off: order, retries, failures, and what waits for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.perform import Outcome
from qgf_ref.sweeps.sweep import Sweep
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import swept


class Failing(SerialRunner):
    """Stubbed work; the jobs in `codes` end with these codes, attempt after attempt."""

    def __init__(self, sweep: Sweep, codes: dict[str, list[int]]) -> None:
        super().__init__(sweep)
        self.codes, self.attempts, self.order = codes, Counter[str](), list[str]()

    def next(self) -> Outcome:
        job = self.waiting.popleft()
        self.order.append(job.name)
        codes = self.codes.get(job.name, [])
        code = codes.pop(0) if codes else 0
        self.attempts[job.name] += 1
        if code:
            return Outcome(job.name, code, 0.1, "there", "a line\nwhat went wrong\n")
        return stub.perform(self.sweep, job)


FIRST = f"train {TASK}/iql/seed0"


def test_every_job_comes_after_what_it_needs(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    engine = Failing(sweep, {})
    report = work_off(sweep, engine)
    needs = {job.name: job.needs for job in sweep.wanted()[0]}
    for i, name in enumerate(engine.order):
        assert set(needs[name]) <= set(engine.order[:i])
    assert (report.total, report.there, len(report.done)) == (12, 0, 12)
    again = work_off(sweep, Failing(sweep, {}))
    assert (again.there, again.done) == (12, [])


def test_a_job_is_tried_again(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    engine = Failing(sweep, {FIRST: [1, -9]})
    report = work_off(sweep, engine, retries=2)
    assert report.retried == {FIRST: 2}
    assert engine.attempts[FIRST] == 3
    assert not report.failed


def test_a_failed_job_stops_only_what_needs_it(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    engine = Failing(sweep, {FIRST: [1, 1]})
    report = work_off(sweep, engine, retries=1)
    assert report.failed == {FIRST: "what went wrong"}
    assert report.blocked == {
        f"beside {TASK}/iql/seed0/cfgrl": FIRST, f"evaluate {TASK}/iql": FIRST
    }  # fmt: skip
    assert f"evaluate {TASK}/edp" in report.done
    note = json.loads(sweep.place.note(FIRST).read_text())
    assert (note["state"], note["attempts"]) == ("failed", 2)
    assert work_off(sweep, Failing(sweep, {})).failed == {}, "the next call tries it again"


@pytest.mark.parametrize(
    ("code", "attempts", "why"),
    [
        (2, 1, "what went wrong"),
        (-9, 2, "its process was killed on there: out of memory? Give fewer --workers"),
        (143, 2, "its process was ended by signal 15 on there; what it had done is saved"),
        (-15, 2, "its process was ended by signal 15 on there"),
    ],
)
def test_reasons(tmp_path: Path, code: int, attempts: int, why: str) -> None:
    sweep = swept(tmp_path)
    engine = Failing(sweep, {FIRST: [code] * 5})
    report = work_off(sweep, engine, retries=1)
    assert engine.attempts[FIRST] == attempts
    assert report.failed[FIRST].startswith(why)


def test_a_job_without_a_result_has_failed(tmp_path: Path) -> None:
    """A process that says 0 and left nothing: a file system that lost it, say."""
    sweep = swept(tmp_path)

    class Idle(Failing):
        def next(self) -> Outcome:
            job = self.waiting.popleft()
            return Outcome(job.name, 0, 0.1, "there")

    report = work_off(sweep, Idle(sweep, {}), retries=0)
    assert set(report.failed.values()) == {
        "it ended without an error, and its result is not there"
    }  # fmt: skip
    assert len(report.failed) == 1, "the data set, which all others need"
    assert len(report.blocked) == 11
