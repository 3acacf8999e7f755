"""What the audit checked of each estimator, and what it says of those that nothing vouches for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qgf_ref import (
    DenoisingStep,
    GuidedFlow,
    denoising_step,
    estimator,
)
from qgf_ref.arrays import Array
from qgf_ref.audit import report as reports
from qgf_ref.audit.coverage import Coverage, Likeness, compared, related
from qgf_ref.audit.definitions import departure_from_gradient_field
from qgf_ref.audit.page import write_report
from qgf_ref.audit.run import audit
from qgf_ref.oracles import NotAnalytic
from tests.conftest import small_checkpoint, states


def minus_qgf(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return -estimator("qgf")(flow, step).gradient


def unlike_any(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return np.roll(estimator("qgf")(flow, step).gradient, 1, axis=1)


def test_what_was_not_checked_is_said_and_compared_with_the_registered(tmp_path: Path) -> None:
    ck = small_checkpoint()
    mine = [estimator(minus_qgf), estimator(unlike_any), estimator("qgf")]
    report = audit(ck, states(ck, 4)[0], mine, show_progress=False)
    assert report.unchecked == ["minus_qgf", "unlike_any"]
    assert report.coverage["qgf"] == Coverage(("definition",), {"potential": "declares none"})
    assert report.coverage["minus_qgf"].resembles == "is minus qgf"
    in_another_order = "equals no registered estimator; beside qgf, it has its columns in another"
    assert report.coverage["unlike_any"].resembles.startswith(in_another_order)
    assert reports.verdict(report).endswith("NOT CHECKED: minus_qgf, unlike_any")
    page = write_report(report, tmp_path).read_text()
    assert "is minus qgf" in page
    stored = json.loads((tmp_path / "report.json").read_text())["coverage"]["minus_qgf"]
    reasons = {"definition": "registers none", "potential": "declares none"}
    assert stored == {"checked": [], "unchecked": reasons, "resembles": "is minus qgf"}


def test_multiples_and_part_of_the_rows_are_recognised() -> None:
    g = np.random.default_rng(0).standard_normal((3, 64, 3))
    other, late, one = g.copy(), g.copy(), g.copy()
    other[:, :4] += 1
    late[1:] += 1
    one[1, 5] += 1
    times = np.array([1, 0.5, 0.25])[:, None, None]
    unit = g / np.linalg.norm(g, axis=-1, keepdims=True)
    for text, own in {
        "is qgf": g,
        "is minus qgf": -g,
        "is qgf times 0.5": 0.5 * g,
        "is qgf on 60 of 64 rows": other,
        "is minus qgf on 60 of 64 rows": -other,
        "is qgf at 191 of 192 states (steps × rows)": one,
        "is qgf times 1 at the first step to 0.25 at the last": times * g,
    }.items():
        assert compared(own, g, "qgf").text == text
    assert compared(unit, g, "qgf").text.startswith("has the direction of qgf, its length times")
    for own in (np.roll(g, 1, axis=0), np.zeros_like(g), late):
        assert compared(own, g, "qgf") == Likeness(0)
    assert compared(g, np.zeros_like(g), "none") == Likeness(0)


def test_shifts_orders_and_lags_are_recognised() -> None:
    flow, g = small_checkpoint().flow, np.random.default_rng(0).standard_normal((3, 16, 6))
    turned = g.reshape(3, 16, 2, 3).swapaxes(2, 3).reshape(g.shape)
    late = np.concatenate([0 * g[:1], g[:-1]])
    for says, own in {
        "it is off by 0.01, 0.01": g + 0.01,
        "it has its columns in another order: qgf's 5, 4, 3": g[..., ::-1],
        "it has its rows in another order: qgf's 15, 0, 1": np.roll(g, 1, axis=1),
        "every chunk of it is transposed, (H, A) = (2, 3)": turned,
        "it is qgf's of the step before (zero at step 0): a lag": late,
    }.items():
        assert related(own, g, "qgf", flow.times, (2, 3)).startswith(says)
    assert related(np.random.default_rng(1).standard_normal(g.shape), g, "qgf", flow.times) == ""
    assert related(np.round(g), g, "qgf", flow.times) == ""


def test_a_curl_of_what_has_no_derivative_is_no_number() -> None:
    ck, draws = small_checkpoint(), np.random.default_rng(0)
    step = denoising_step(ck.flow, *states(ck, 2), index=1)

    def noisy(flow: GuidedFlow, step: DenoisingStep) -> Array:
        return estimator("qgf")(flow, step).gradient * draws.standard_normal()

    with pytest.warns(NotAnalytic, match="G of noisy answers the same argument differently"):
        assert np.isnan(departure_from_gradient_field(estimator(noisy), ck.flow, step)).all()
