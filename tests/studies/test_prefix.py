"""The prefix study: its tables fit, its numbers are as the text says, ones own estimators run."""

from __future__ import annotations

import pytest

from qgf_ref.studies.base import StudySettings, select
from qgf_ref.studies.prefix import study as module
from qgf_ref.studies.registry import study


def test_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", (5, 10))
    laws = {name: module.LAWS[name] for name in ("independent, sd 1", "smooth, sd 0.3")}
    monkeypatch.setattr(module, "LAWS", laws)
    outcome = study("prefix").run(StudySettings())
    assert max(map(len, outcome.text.splitlines())) <= 100
    assert "J, cut at 5 (paper)          0.38  0.38" in outcome.text
    figure = study("prefix").figures(outcome.tables, {})[""]
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == len(module.CONTENDERS)


def test_ones_own_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", (5,))
    rows = module.study(StudySettings(estimators=("none", "qgf+schedule=rtc,10"))).tables[""]
    known = select(rows, law="smooth, sd 0.3", estimator="qgf+schedule=rtc,10")
    assert known[0]["w2"] == pytest.approx(0.261, abs=1e-3)
