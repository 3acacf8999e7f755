"""What every study leaves on disk, and how it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qgf_ref.errors import InputError
from qgf_ref.plotting import new_figure
from qgf_ref.studies.base import Outcome, StudySettings, run_study
from qgf_ref.studies.registry import STUDIES, study


def outcome(settings: StudySettings) -> Outcome:
    figure = new_figure()
    figure.subplots().plot([0, 1], [settings.seed, 1])
    rows = [{"estimator": "qgf", "w1": 0.5}]
    return Outcome("a table", {"": rows, "more": rows}, {"distance": figure}, {"best": "qgf"})


def test_a_study_writes_its_numbers_figures_and_provenance(tmp_path: Path) -> None:
    files = run_study("bias-variance", outcome, StudySettings(seed=3), tmp_path)
    names = sorted(f.name for f in files)
    assert names == sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "study_bias_variance.csv",
        "study_bias_variance.json",
        "study_bias_variance.txt",
        "study_bias_variance_distance.pdf",
        "study_bias_variance_distance.png",
        "study_bias_variance_more.csv",
    ]
    about = json.loads((tmp_path / "study_bias_variance.json").read_text())
    assert about["settings"]["seed"] == 3
    assert about["best"] == "qgf"
    assert about["provenance"]["versions"]["numpy"]
    assert (tmp_path / "study_bias_variance.csv").read_text() == "estimator,w1\nqgf,0.5\n"


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    first = run_study("noise", outcome, StudySettings(), tmp_path)
    before = {f.name: f.read_bytes() for f in first if f.suffix != ".json"}
    run_study("noise", outcome, StudySettings(), tmp_path)
    assert before == {f.name: f.read_bytes() for f in first if f.suffix != ".json"}


def test_a_study_that_fails_writes_nothing(tmp_path: Path) -> None:
    def failing(settings: StudySettings) -> Outcome:
        raise InputError("no")

    with pytest.raises(InputError):
        run_study("noise", failing, StudySettings(), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no directory"):
        run_study("noise", outcome, StudySettings(), tmp_path / "missing")


def test_every_study_has_an_entry_point_and_unknown_ones_are_listed() -> None:
    assert all(callable(study(name)) for name in STUDIES)
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
