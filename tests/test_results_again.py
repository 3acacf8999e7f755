"""benchmarks/all.py makes results again, goes on where it was stopped, and compares a sample."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import all as every
from benchmarks import check as again
from benchmarks.check import Allowed, CannotCheck, Sample, differences, values_of
from benchmarks.result_list import Result

CLOSE = Allowed(1e-6, 0.0, "to 1e-6", rounding="^error")


def test_values_of_files_are_those_that_no_machine_decides(tmp_path: Path) -> None:
    content = {
        "rows": [{"success": 0.5, "note": None}, {"success": True}], "seconds": 3.0,
        "provenance": {"commit": "x"}, "versions": {"numpy": "2"}, "time": "now", "times": [1],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert values_of(tmp_path / "a.json") == {
        "rows.0.success": 0.5, "rows.0.note": None, "rows.1.success": True, "times.0": 1,
    }  # fmt: skip
    with (tmp_path / "a.csv").open("w") as file:
        csv.writer(file).writerows([["law", "w2", "sampling_seconds"], ["ring", "1e-3", "9"]])
    assert values_of(tmp_path / "a.csv") == {"row 1 law": "ring", "row 1 w2": 1e-3}


@pytest.mark.parametrize(
    ("kept", "made", "told"),
    [
        (1.0, 1.0 + 9e-7, None),
        (1.0, 1.0 + 2e-6, "x: 1.0 is kept, 1.000002 was made"),
        (0.0, 1e-300, "x: 0.0 is kept, 1e-300 was made"),
        (1, float("nan"), "x: 1 is kept, nan was made"),
        ("qgf", "bptt", "x: qgf is kept, bptt was made"),
        (None, 0.0, "x: None is kept, 0.0 was made"),
        (True, 1, None),
        (True, 2, "x: True is kept, 2 was made"),
    ],
)
def test_what_differs(kept: Any, made: Any, told: str | None) -> None:
    assert differences({"x": kept}, {"x": made}, CLOSE) == ([] if told is None else [told])


def test_errors_of_rounding_may_be_ten_times_what_they_were() -> None:
    kept = {"error": 1e-14, "value": 1.0}
    assert not differences(kept, {"error": 9e-14, "value": 1.0}, CLOSE)
    assert not differences(kept, {"error": 0.0, "value": 1.0}, CLOSE)
    assert differences(kept, {"error": 2e-13, "value": 1.0}, CLOSE)
    assert differences(kept, {"error": float("nan"), "value": 1.0}, CLOSE)


def test_what_is_missing_and_what_is_new() -> None:
    found = differences({"a": 1, "b": 2}, {"b": 2, "c": 3}, CLOSE)
    assert found == ["a: 1 is missing", "c: 3 is new"]


def sample(name: str, made: dict[str, Any] | None) -> Sample:
    def make(place: Path, data: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        assert place.is_dir() and not list(place.iterdir())
        if made is None:
            raise CannotCheck("no data set here: give --data")
        return {"x": 1.0, "y": 2.0}, made

    return Sample(name, "a part", CLOSE, make)


def test_check_says_how_each_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same, other = {"x": 1.0, "y": 2.0 + 1e-7}, {"x": 1.0, "y": 2.1}
    samples = (sample("same", same), sample("lacking", None), sample("other", other))
    monkeypatch.setattr(again, "SAMPLES", samples)
    assert again.check(["same", "lacking"], None) == 0
    said = capsys.readouterr().out
    assert "2 values: as kept (to 1e-6); largest relative difference 5.0e-08, y" in said
    assert "not checked: no data set here" in said
    assert again.check([], None) == 1
    said = capsys.readouterr().out
    assert "DIFFERS: 1 of 2 values" in said and "y: 2.0 is kept, 2.1 was made" in said
    assert again.check(["smae"], None) == 2
    assert "of same, lacking, other is" in capsys.readouterr().err


def test_every_sample_is_of_a_result_that_is_there() -> None:
    for each in again.SAMPLES:
        assert (again.RESULTS / f"{each.name}.json").exists() or (
            again.RESULTS / each.name
        ).is_dir()
        assert each.name in (again.__doc__ or "")


def test_the_tables_of_the_sweep_are_those_of_its_results() -> None:
    assert again.check(["fig5"], None) == 0


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two results: the second needs a file."""

    def made(name: str, test: str) -> Result:
        note = f"import pathlib, sys; open('{tmp_path}/log', 'a').write('{name} ')"
        return Result(name, (f'python -c "{note}; sys.exit({test})"',), ("ops",), 1)

    late = made("late", f"not pathlib.Path('{tmp_path}/needed').exists()")
    monkeypatch.setattr(every, "RESULTS_IN_ORDER", (late, made("sound", "0")))
    monkeypatch.setattr(every, "result", lambda name: None)
    monkeypatch.setattr(every, "MADE", tmp_path / "made.json")
    monkeypatch.setattr(every, "code", lambda: "one")
    monkeypatch.setattr(every, "minutes", lambda entry: "1")
    return tmp_path


def test_a_command_that_fails_stops_no_other_and_is_tried_again(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert every.run(["all"], None) == 1
    assert "failed: late" in capsys.readouterr().out
    (results / "needed").touch()
    assert every.run(["all"], None) == 0
    assert "sound: made already, with this code" in capsys.readouterr().out
    assert (results / "log").read_text().split() == ["late", "sound", "late"]
    assert every.run(["all"], None) == 0
    assert every.run(["sound"], None, again=True) == 0
    monkeypatch.setattr(every, "code", lambda: "two")
    assert every.run(["all"], None) == 0
    assert (results / "log").read_text().split()[3:] == ["sound", "late", "sound"]
