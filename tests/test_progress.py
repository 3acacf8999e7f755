"""Progress: silent unless asked, a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys

import pytest

from qgf_ref import progress as module
from qgf_ref.progress import SILENT, progress, tracked


def test_silent_where_it_is_not_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    SILENT.advance()
    SILENT.say("anything")
    with progress(3, show=False) as job:
        assert job is SILENT
    assert list(tracked("abc", show=False)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_lines_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 61.0, 62.0, 125.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress(9, "cell", title="timing", first=3) as job:
        job.say("batch 4")
        for steps in (1, 1, 1, 2):
            job.advance(steps)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "timing: cell 5 of 9, 61 s, batch 4",
        "timing: cell 8 of 9, 125 s, batch 4",
    ]


def test_without_a_known_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert list(tracked(iter("ab"))) == ["a", "b"]
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "step 1",
        "step 2",
    ]


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(2, "cell", title="timing") as job:
        job.say("first")
        job.advance(2)
    assert "timing: 100%" in capsys.readouterr().err
