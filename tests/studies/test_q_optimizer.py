"""Q of the final action: on the same observations and noise for all; equal Q as defined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method, parse_method
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.guidance.queries import critic_value
from qgf_ref.sampling import sample
from qgf_ref.studies.q_optimizer import points as q_optimizer_points
from qgf_ref.studies.q_optimizer.points import QPoint, at_equal_q, fixed_observations, optimised
from qgf_ref.studies.q_optimizer.study import study
from tests.studies.lines import FORWARD, cell, drawn, line_settings

OOD, QGF = Method("ood"), Method("qgf")


@pytest.fixture(autouse=True)
def _observations(monkeypatch: pytest.MonkeyPatch) -> None:
    def observations(settings: Any, index: int, rows: int) -> Array:
        return np.random.default_rng(index).standard_normal((40, 5)).astype(np.float32)

    monkeypatch.setattr(q_optimizer_points, "observations", observations)


def points(method: Method, q: list[float], wins: list[list[bool]]) -> list[QPoint]:
    return [
        QPoint(cell(method, float(i), each), Estimate(x, x - 1, x + 1), Estimate(x, x, x))
        for i, (x, each) in enumerate(zip(q, wins, strict=True))
    ]


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_q_is_that_of_the_final_actions(backend: str | None) -> None:
    settings = replace(line_settings(seeds=2), backend=backend)
    cells = [cell(m, w, [True]) for m, w in ((Method(), None), (QGF, 0.1), (QGF, 0.3))]
    best = cell(parse_method("bfn-4"), None, [True])
    found = optimised(settings, [*cells, best], fixed_observations(settings))
    rng = np.random.default_rng((settings.seed, 13))
    expected = np.zeros((3, 2))
    for i, checkpoint in enumerate(settings.checkpoints):
        obs = q_optimizer_points.observations(settings, i, 40)
        noise = rng.standard_normal((40, 4, checkpoint.flat_action_dim))[:, 0]
        flow = checkpoint.guided_flow(embedding="float32")
        for j, c in enumerate(cells):
            action = sample(flow, obs, estimator=c.method.estimator, weight=c.weight, noise=noise)
            expected[j, i] = critic_value(flow, obs, action).mean()
    # float32, means of 40: measured 2e-7
    got = [p.q.value for p in found[:3]]
    np.testing.assert_allclose(got, expected.mean(axis=1), rtol=0, atol=2e-6)
    gains = [p.gain for p in found[:3]]
    assert gains[0] == Estimate(0.0, 0.0, 0.0)
    wanted = (expected - expected[0]).mean(axis=1)
    np.testing.assert_allclose([g.value for g in gains], wanted, rtol=0, atol=4e-6)
    # the first of the four candidates is BC's own
    assert found[3].q.value > found[0].q.value


def test_equal_q() -> None:
    low, high = [True] * 2 + [False] * 8, [True] * 8 + [False] * 2
    line = points(QGF, [0.0, 1.0, 2.0], [low, [True] * 5 + [False] * 5, high])
    same = at_equal_q(line, line)
    assert same is not None
    assert same == Estimate(0.0, 0.0, 0.0)
    # success 0.2 + 0.3·Q against 0.2 at every Q of [1, 2]: 0.45 on average
    flat = points(OOD, [1.0, 3.0], [low, low])
    found = at_equal_q(flat, line)
    assert found is not None
    assert found.value == pytest.approx(0.2 - (0.2 + 0.3 * 1.5))
    assert found.low < found.value < found.high < 0
    # beyond the highest Q nothing counts: there one Q has two successes
    falling = points(QGF, [0.0, 1.0, 2.0, 1.5], [*(low, [True] * 5 + [False] * 5, high), low])
    assert at_equal_q(flat, falling) == found
    assert at_equal_q(points(OOD, [5.0, 6.0], [low, low]), line) is None


def test_the_study() -> None:
    found = study(line_settings("ood", "qgf", FORWARD))
    main = found.tables[""]
    assert [r["method"] for r in main] == [
        "bc", "bfn-16", "gradstep 3×0.01", *["ood"] * 4, *["qgf"] * 4, *[FORWARD] * 4,
    ]  # fmt: skip
    assert all(r["q_low"] <= r["q"] <= r["q_high"] for r in main)
    tops = {r["estimator"]: r for r in found.details["summary"]}
    for name in ("ood", "qgf", FORWARD):
        assert tops[name]["highest_q"] == max(r["q"] for r in main if r["method"] == name)
    by_q = sorted(tops, key=lambda name: -tops[name]["highest_q"])
    text = " ".join(found.text.split())
    assert f"By highest Q: {' > '.join(by_q)}" in text
    assert f"here it {'reaches' if by_q[0] == 'ood' else 'does not reach'} it" in text
    assert "Spearman's ρ of Q and success over all 15 points" in text
    assert max(map(len, found.text.splitlines())) <= 100
    assert drawn("q-optimizer", found) == {""}


def test_missing_data_is_told_before_anything_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(settings: Any, index: int, rows: int) -> Array:
        raise InputError("no data set")

    monkeypatch.setattr(q_optimizer_points, "observations", missing)
    with pytest.raises(InputError, match="no data set"):
        study(line_settings("qgf", kind="raises"))  # this task cannot play


def test_one_estimator_of_ones_own() -> None:
    found = study(line_settings("qgf_jacobian"))
    assert found.details["comparison"]["ood_minus_qgf_at_equal_q"] is None
    assert "ood" not in found.text
