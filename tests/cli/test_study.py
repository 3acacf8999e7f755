"""qgf-ref study from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgf_ref.cli.main import main
from qgf_ref.studies import registry
from qgf_ref.studies.base import StudyOutcome, StudySettings


def test_without_a_name_it_lists_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in registry.STUDIES)
    assert max(map(len, out.splitlines())) <= 100
    assert "Next: qgf-ref study didactic --quick" in out


def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "lab")]
    assert main(["study", "didatic", *out]) == 2
    assert "unknown study 'didatic'; the valid ones are" in capsys.readouterr().err
    assert main(["study", "didactic", "--task", "x", *out]) == 2
    assert "closed-form flows: it takes no --checkpoint" in capsys.readouterr().err
    assert main(["study", "didactic", "--denoise-steps", "3", *out]) == 2
    assert "it takes no --checkpoint nor options of one" in capsys.readouterr().err
    assert main(["study", "didactic", "--workers", "0", *out]) == 2
    assert "workers must be ≥ 1, got 0" in capsys.readouterr().err
    for name in ("didactic", "noise"):
        assert main(["study", name, "--backend", "numba", *out]) == 2
        assert f"ood-distance, weights; {name} does not" in capsys.readouterr().err
    assert main(["study", "weights", "--backend", "cuda", *out]) == 2
    assert "unknown backend 'cuda'" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists(), "nothing is made for a refused command"


def test_a_trained_study_gets_checkpoints_and_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[StudySettings] = []

    def study(settings: StudySettings) -> StudyOutcome:
        seen.append(settings)
        return StudyOutcome("done", {"": [{"a": 1}]})

    monkeypatch.setattr("qgf_ref.studies.noise.study.study", study)
    monkeypatch.setattr("qgf_ref.studies.noise.figures.figures", lambda tables, about: {})
    arguments = ["study", "noise", "--quick", "--seed", "4", "--estimators", "qgf"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    (settings,) = seen
    assert settings.quick
    assert settings.seed == 4
    assert settings.estimators == ("qgf",)
    assert settings.task == "cube-single-play-singletask-task1-v0"
    assert [c.dtype for c in settings.checkpoints] == ["float32"]
    typed = f"qgf-ref study noise --seed 4 --estimators qgf --out {tmp_path} --overwrite"
    assert f"Next: {typed}  (the whole study)" in capsys.readouterr().out
    assert main(["study", "noise", "--redraw", str(tmp_path / "nothing")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert main(["study", "noise", "--redraw", str(tmp_path)]) == 0
