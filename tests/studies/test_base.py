"""What every study leaves on disk, and how it is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from qgf_ref.errors import InputError
from qgf_ref.plotting import new_figure
from qgf_ref.studies.base import (
    Rows,
    Study,
    StudyOutcome,
    StudySettings,
    figures_of,
    file_name,
    redraw,
    run_study,
)
from qgf_ref.studies.registry import STUDIES, study

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def measured(settings: StudySettings) -> StudyOutcome:
    rows = [{"estimator": "qgf", "x": x, "w1": 0.5 * x + settings.seed} for x in (0, 1)]
    return StudyOutcome("a table\n" * 4000, {"": rows, "more": rows}, {"best": "qgf"})


def line(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    figure = new_figure()
    x, y = ([r[column] for r in tables["more"]] for column in ("x", "w1"))
    figure.subplots().plot(x, y, label=about["best"])
    return {"my_module:guide": figure}


STUB = Study(measured, line)


def test_a_study_writes_its_numbers_figures_and_provenance(tmp_path: Path, draws: None) -> None:
    files = run_study("bias-variance", STUB, StudySettings(seed=3), tmp_path)
    names = sorted(f.name for f in files)
    assert names == sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "study_bias_variance.csv",
        "study_bias_variance.json",
        "study_bias_variance.txt",
        "study_bias_variance_more.csv",
        "study_bias_variance_my_module_guide.pdf",
        "study_bias_variance_my_module_guide.png",
    ]
    about = json.loads((tmp_path / "study_bias_variance.json").read_text())
    assert about["settings"]["seed"] == 3
    assert about["best"] == "qgf"
    assert about["provenance"]["versions"]["numpy"]
    text = (tmp_path / "study_bias_variance.csv").read_text()
    assert text == "estimator,x,w1\nqgf,0,3.0\nqgf,1,3.5\n"


def test_the_same_study_gives_the_same_bytes_and_so_does_drawing_again(
    tmp_path: Path, draws: None
) -> None:
    files = run_study("noise", STUB, StudySettings(), tmp_path)
    before = {f.name: f.read_bytes() for f in files if f.suffix != ".json"}
    run_study("noise", STUB, StudySettings(), tmp_path)
    assert before == {f.name: f.read_bytes() for f in files if f.suffix != ".json"}
    (tmp_path / "again").mkdir()
    drawings = redraw("noise", STUB, tmp_path, tmp_path / "again")
    assert [f.suffix for f in drawings] == [".png", ".pdf"]
    assert all(f.read_bytes() == before[f.name] for f in drawings)


def test_drawing_again_without_the_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*study_noise\.json, which `qgf-ref study`"):
        redraw("noise", STUB, tmp_path, tmp_path)
    files = run_study("noise", STUB, StudySettings(), tmp_path)
    next(f for f in files if f.name == "study_noise_more.csv").unlink()
    with pytest.raises(InputError, match="if another version made them, run qgf-ref study noise"):
        redraw("noise", STUB, tmp_path, tmp_path)


def test_a_reader_that_leaves_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`qgf-ref study noise | head`: a pipe closed at the other end."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        with pytest.raises(BrokenPipeError):
            run_study("noise", STUB, StudySettings(), tmp_path)
        monkeypatch.undo()
        with suppress(BrokenPipeError):
            closed.close()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [
        ".csv", ".csv", ".json", ".pdf", ".png", ".txt",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_committed_picture_is_drawn_from_the_committed_tables(name: str) -> None:
    """What the pages show comes from the numbers beside it, and needs nothing else."""
    drawn = {file_name(name, part, "png") for part in figures_of(name, study(name), RESULTS)}
    pictures = RESULTS.glob(f"{Path(file_name(name, '', 'png')).stem}*.png")
    assert {p.name for p in pictures} <= drawn


def test_a_study_that_fails_writes_nothing(tmp_path: Path) -> None:
    def failing(settings: StudySettings) -> StudyOutcome:
        raise InputError("no")

    with pytest.raises(InputError):
        run_study("noise", Study(failing, line), StudySettings(), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no directory"):
        run_study("noise", STUB, StudySettings(), tmp_path / "missing")


def test_every_study_has_an_entry_point_and_unknown_ones_are_listed() -> None:
    assert all(callable(part) for name in STUDIES for part in study(name))
    with pytest.raises(InputError, match=r"unknown study 'didatic'.*didactic.*weights"):
        study("didatic")


def test_settings_out_of_range() -> None:
    settings = StudySettings()
    with pytest.raises(InputError, match="workers must be ≥ 1"):
        replace(settings, workers=0)
    with pytest.raises(InputError, match="no estimator"):
        replace(settings, estimators=())
    with pytest.raises(InputError, match="ood is given twice"):
        replace(settings, estimators=("ood", "qgf", "qfql"))
