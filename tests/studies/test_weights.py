"""Success against weight: every weight on the same episodes, plateau and collapse as defined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.records import FILE
from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.qgf import QGF
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.studies.shared.episodes import QUICK_PLAN, EpisodePlan, guided_methods, play, rows
from qgf_ref.studies.weights.study import Curve, study
from tests.evaluation.fakes import line_checkpoint
from tests.studies.lines import FORWARD, cell, drawn, line_settings


class OwnGrid(QGF):
    """An estimator whose weights are on another scale."""

    default_weights = (7.0, 9.0)


def curve(*rates: float) -> Curve:
    """At the weights 1, 2, 4, …, on 20 episodes."""
    return Curve(
        tuple(
            cell(Method("qgf"), 2.0**i, [j < round(20 * rate) for j in range(20)])
            for i, rate in enumerate(rates)
        )
    )


@pytest.mark.parametrize(
    ("rates", "plateau", "collapse"),
    [
        # Wilson's interval of 18/20 is 0.70–0.97
        ((0.1, 0.65, 0.75, 0.9, 0.7, 0.65, 0.4), (4.0, 16.0), 64.0),
        # good again beyond a gap: not of the plateau
        ((0.85, 0.1, 0.9, 0.1, 0.85), (4.0, 4.0), 8.0),
        ((0.1, 0.9, 0.85), (2.0, 4.0), None),
        # exactly half counts
        ((0.9, 0.5, 0.45), (1.0, 1.0), 4.0),
        ((0.0, 0.0), (1.0, 2.0), None),
    ],
)
def test_plateau_and_collapse(
    rates: tuple[float, ...], plateau: tuple[float, float], collapse: float | None
) -> None:
    found = curve(*rates)
    assert found.plateau == plateau
    assert found.collapse == collapse


def test_the_study(tmp_path: Path) -> None:
    settings = line_settings(FORWARD, "qgf", seeds=2, records=tmp_path / "records")
    found = study(settings)
    # 8 episodes among 2 checkpoints are 4 each
    assert QUICK_PLAN.of_each(2) == (4, 4)
    pooled = [r for r in found.tables[""] if r["checkpoint"] == "all"]
    assert {r["episodes"] for r in pooled} == {8}
    assert "8 selection episodes (2 checkpoints × 4)" in " ".join(found.text.split())
    selection = [(r["method"], r["weight"]) for r in pooled if r["split"] == SELECTION]
    assert selection == [
        ("bc", None), *((m, w) for m in (FORWARD, "qgf") for w in QUICK_PLAN.weights),
    ]  # fmt: skip
    assert len([r for r in pooled if r["split"] == HELD_OUT]) == 3
    assert len(found.tables[""]) == 3 * len(pooled)  # and each checkpoint's own
    summary = {r["estimator"]: r for r in found.details["summary"]}
    assert summary[FORWARD]["optimistic"] == max(
        r["success"] for r in pooled if r["method"] == FORWARD and r["split"] == SELECTION
    )
    assert "minus_qgf" in summary[FORWARD]
    assert "minus_qgf" not in summary["qgf"]
    assert "seeds" in found.text
    highest = max(r["success"] for r in summary.values())
    names = ", ".join(n for n, r in summary.items() if r["success"] == highest)
    assert f"Highest held-out success: {names}, {highest:.2f}" in " ".join(found.text.split())
    assert drawn("weights", found) == {"", "overview"}
    assert max(map(len, found.text.splitlines())) <= 100
    # everything is recorded: a task that cannot play is not asked to
    again = line_settings(FORWARD, "qgf", seeds=2, kind="raises", records=settings.records)
    methods, _ = guided_methods(again, ())
    assert rows(play(again, (Method(), *methods), QUICK_PLAN).selection) == [
        r for r in found.tables[""] if r["split"] == SELECTION
    ]


def backward(flow: GuidedFlow, step: DenoisingStep) -> Array:
    # to the left, where nothing is won, at every weight
    return -1e3 * np.ones_like(step.action)


def test_failures_have_no_widest_plateau() -> None:
    found = study(line_settings("tests.studies.test_weights:backward"))
    assert found.details["summary"][0]["optimistic"] == 0
    assert "plateau (as far" not in found.text


def test_records_of_other_checkpoints_say_what_to_do(tmp_path: Path) -> None:
    settings = line_settings("qgf", records=tmp_path / "records")
    play(settings, (Method(),), EpisodePlan(1, 1, ()))
    other = replace(settings, checkpoints=(line_checkpoint(5),))
    with pytest.raises(InputError, match=r"other checkpoints.*--out, or delete .*records") as e:
        play(other, (Method(),), EpisodePlan(1, 1, ()))
    assert "--overwrite" not in str(e.value)
    (tmp_path / "records" / "episodes" / FILE).write_text("no JSON\n")
    with pytest.raises(InputError, match=r"damaged.*delete .*records"):
        play(other, (Method(),), EpisodePlan(1, 1, ()))


def test_an_estimator_with_weights_of_its_own() -> None:
    own = Method("tests.studies.test_weights:OwnGrid")
    methods = (Method("qgf"), own, Method())
    found = play(line_settings(), methods, EpisodePlan(2, 2, (0.1, 0.2)))
    assert [c.weight for c in found.curve(own)] == [7.0, 9.0]
    assert [c.weight for c in found.curve(Method("qgf"))] == [0.1, 0.2]
    assert [c.method for c in found.held_out] == list(methods)
    assert found.settings.methods == methods


def test_what_cannot_run_is_left_out_unless_asked_for() -> None:
    bare = tuple(
        replace(c, auxiliary=AuxiliaryParams()) for c in line_settings(seeds=2).checkpoints
    )
    names = ("qgf", "cfgrl", "not_registered_yet")
    methods, without = guided_methods(replace(line_settings(), checkpoints=bare), names)
    assert methods == (Method("qgf"),)
    assert list(without) == ["cfgrl"]
    with pytest.raises(InputError, match="cfgrl needs the auxiliary network"):
        guided_methods(replace(line_settings("qgf", "cfgrl"), checkpoints=bare), ())


def test_without_a_task() -> None:
    with pytest.raises(InputError, match="give --task"):
        play(replace(line_settings(), task=None), (Method(),), EpisodePlan(1, 1, ()))
