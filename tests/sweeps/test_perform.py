"""A job's process: its exit, its log, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgf_ref.files import sole_use
from qgf_ref.sweeps import work
from qgf_ref.sweeps.perform import perform
from qgf_ref.sweeps.place import SweepPlace
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
