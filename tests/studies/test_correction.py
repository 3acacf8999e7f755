"""The correction study in the small: what is exact is near, what is wrong is far."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.qgf_shifted import QGFShifted
from qgf_ref.guidance.registry import estimator
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.correction import study as correction
from qgf_ref.studies.correction.scenes import (
    CONDITIONS,
    FREE_TIME,
    MORE_STEPS,
    Contender,
    scenes,
)
from qgf_ref.studies.correction.study import CorrectionSize, comparison, contenders, measure
from qgf_ref.studies.correction.words import report
from tests.studies.lines import drawn

TINY = CorrectionSize(weights=(0.5, 2.0), draws=2, rows_1d=300, rows=100, names=("1-D", "2-D"))


class _Explosive(Estimator):
    name = "explosive"
    summary = "1e200·a_t"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(1e200 * step.action)


def ratios(found: Any, **where: Any) -> list[float | None]:
    return [r["ratio"] for r in found if all(r[k] == v for k, v in where.items())]


def test_the_exact_ones_are_nearer_and_what_diverges_is_said() -> None:
    chosen = [
        Contender(e.label, e) for e in (estimator("qgf"), QGFShifted(grid=False), _Explosive())
    ]
    rows = measure(TINY, chosen, seed=0)
    found = comparison(rows)
    exact = {"scene": "1-D", "condition": "exact", "T": 100}
    # in one dimension with a quadratic critic the free t′ is the oracle, to rounding
    np.testing.assert_allclose(
        np.array(ratios(found, estimator="qgf_shifted", **exact), dtype=float),
        np.array(ratios(found, estimator="oracle", **exact), dtype=float),
        rtol=1e-9,
    )
    assert all(r is not None and r < 0.1 for r in ratios(found, estimator="oracle", **exact))
    assert set(ratios(found, estimator="explosive")) == {None}
    text = report(TINY.weights, TINY.draws, chosen, found)
    assert "explosive: nearer than qgf in 0 of" in text
    assert "diverged" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_table_of_the_default_estimators_fits() -> None:
    chosen = contenders()
    names = [*(c.label for c in chosen), "oracle"]
    found = [
        {"scene": "1-D distance", "condition": "both wrong", "T": 100, "weight": 1.0,
         "estimator": name, "ratio": 10.5, "low": 10.0, "high": 11.0}
        for name in names if name != "qgf"
    ]  # fmt: skip
    found += [{**r, "T": 10} for r in found]
    text = report(CorrectionSize().weights, 4, chosen, found)
    assert max(map(len, text.splitlines())) <= 100


def test_a_wrong_weight_is_seen() -> None:
    """The distance is to the law of this w: guidance at 1.5w is farther, by far."""
    scene = scenes()["1-D"]
    flow = scene.flow(CONDITIONS["exact"], 100, 0)
    distance = scene.distance_to(0.5, 0)

    def at(weight: float) -> float:
        actions = correction.reached(scene, flow, estimator("oracle"), weight, 500, 0)
        assert actions is not None
        return distance(actions)

    assert at(0.5) < 0.2 * at(0.75)


def test_errors_are_drawn_anew_and_by_seed() -> None:
    scene = scenes()["2-D"]
    x = np.random.default_rng(0).standard_normal((3, 2))

    def v(seed: int, condition: str = "wrong v") -> Array:
        return scene.flow(CONDITIONS[condition], 10, seed).field.forward(x, x, 0.3)[0]

    assert (v(1) == v(1)).all()
    assert (v(1) != v(2)).all()
    assert (v(1, "wrong Q") == v(2, "exact")).all()


def test_comparison_is_the_geometric_mean_over_draws() -> None:
    def row(name: str, draw: int, distance: float) -> dict[str, Any]:
        cell = {"scene": "s", "condition": "c", "T": 10, "weight": 1.0}
        return {**cell, "estimator": name, "draw": draw, "distance": distance}

    rows = [row("qgf", 0, 1.0), row("x", 0, 2.0), row("qgf", 1, 2.0), row("x", 1, 1.0)]
    (found,) = comparison(rows)
    assert found["ratio"] == pytest.approx(1.0)
    # log ratios ±log 2 with one degree of freedom, of which t's 97.5% is tan(0.475π)
    reach = math.tan(0.475 * math.pi) * math.log(2)
    assert math.isclose(found["low"], math.exp(-reach), rel_tol=1e-9)
    assert math.isclose(found["high"], math.exp(reach), rel_tol=1e-9)


def test_the_study_runs_with_ones_own_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    size = replace(TINY, rows_1d=100, rows=40, conditions=("exact", "both wrong"))
    monkeypatch.setattr(correction, "QUICK", size)
    found = correction.study(StudySettings(quick=True, estimators=("ood",)))
    assert {r["estimator"] for r in found.tables[""]} == {"qgf", "ood", "oracle"}
    assert drawn("correction", found) == {"distance"}
    with pytest.raises(InputError, match="leave it out"):
        correction.study(StudySettings(quick=True, estimators=("qgf", "oracle")))
    with pytest.raises(InputError, match="unknown estimator"):
        correction.study(StudySettings(quick=True, estimators=("odd",)))


def test_qgf_with_three_times_the_steps_is_a_control() -> None:
    rows = measure(replace(TINY, names=("1-D",), conditions=("exact",)), contenders(), seed=0)
    found = comparison(rows)
    scene = scenes()["1-D"]
    flow = scene.flow(CONDITIONS["exact"], 30, 0)
    actions = correction.reached(scene, flow, estimator("qgf"), 0.5, TINY.rows_1d, 0)
    assert actions is not None
    (mine,) = [
        r["distance"]
        for r in rows
        if (r["estimator"], r["T"], r["weight"]) == (MORE_STEPS, 10, 0.5)
    ]
    assert mine == scene.distance_to(0.5, 0)(actions)
    assert {r["estimator"] for r in found} >= {MORE_STEPS, FREE_TIME, "oracle"}
