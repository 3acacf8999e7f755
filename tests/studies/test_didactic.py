"""The didactic study: distances against method.md's, the oracle's order, divergence, outcome."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.flow.distances import quantile_noise, wasserstein_1
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.registry import estimator_names
from qgf_ref.sampling import sample
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.didactic.divergence import STRETCHES, limit, product, thinned
from qgf_ref.studies.didactic.figures import AXES, METRICS
from qgf_ref.studies.didactic.runs import (
    DidacticGrid,
    Laboratory,
    LawCase,
    default_estimators,
    escaped,
    target,
)
from qgf_ref.studies.didactic.study import study_on
from qgf_ref.studies.didactic.words import claims
from qgf_ref.studies.shared.scenes import FORMULAS
from tests.studies.lines import drawn

TINY = DidacticGrid(
    points=200,
    updates=20,
    weights=(0.5, 2.0),
    shown=(0.5, 2.0),
    panels=(2.0,),
    steps=(1, 5),
    few=5,
    many=8,
    separations=(0.5, 1.0),
)
LAB = Laboratory.of(None, None, 1000)


def w1(name: str, weight: float, steps: int, critic: str = "quadratic") -> float:
    found = LAB.law(LawCase("exact", critic, name, weight, steps)).w1
    assert found is not None
    return found


METHOD_MD = {
    # w of −½(a − 1)²: by estimator, T = 200; then qgf's and qgf_covariance's at T = 10
    0.1: ({"ood": 0.141, "qgf": 0.120, "qgf_jacobian": 0.079, "qgf_jacobian_scheduled": 0.025,
           "oracle": 0.007}, {"qgf": 0.136, "qgf_covariance": 0.097}),
    0.5: ({"ood": 0.259, "qgf": 0.183, "qgf_jacobian": 0.164, "qgf_jacobian_scheduled": 0.146,
           "oracle": 0.012}, {"qgf": 0.170, "qgf_covariance": 0.116}),
    2.0: ({"ood": 0.338, "qgf": 0.305, "qgf_jacobian": 0.276, "qgf_jacobian_scheduled": 0.395,
           "oracle": 0.004}, {"qgf": 0.318, "qgf_covariance": 0.073}),
    8.0: ({"ood": 0.152, "qgf": 0.146, "qgf_jacobian": 0.127, "qgf_jacobian_scheduled": 0.432,
           "oracle": 0.003}, {"qgf": 0.133, "qgf_covariance": 0.052}),
}  # fmt: skip


@pytest.mark.parametrize("w", METHOD_MD)
def test_distances_of_method_md(w: float) -> None:
    """method.md, section 6, from 20,000 random samples: off by up to 0.0086 (measured; at w = ½
    its oracle, too, is 0.0084 farther). `qgf_covariance` is off by 0.0135 at w = ½: there the
    limit at t = 0 is this package's own choice as well.

    Its Q is half of the scene's −(a − 1)², so its w is twice the scene's.
    """
    many, few = METHOD_MD[w]
    for steps, expected in ((200, many), (10, few)):
        for name, distance in expected.items():
            if name in estimator_names():
                tolerance = 0.018 if name == "qgf_covariance" else 0.012
                assert abs(w1(name, w / 2, steps) - distance) < tolerance, (name, steps)


def test_the_oracles_distance_vanishes_at_first_order() -> None:
    """Planted: guided at a weight 20% off, the distance stays."""
    steps = (20, 40, 80)
    errors = [w1("oracle", 2.0, T) for T in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.2 < slope < -0.8, errors
    case = LawCase("exact", "quadratic", "oracle", 2.4, 80)
    wrong = LAB.law(case).actions
    assert wrong is not None
    assert wasserstein_1(wrong, target("quadratic", 2.0)) > 3 * errors[-1]


def test_the_laboratory_samples_as_anyone_would() -> None:
    case = LawCase("exact", "bump", "qgf", 2.0, 10, 1.25)
    noise = quantile_noise(1000)
    a = sample(LAB.flow(case), np.zeros((1000, 0)), noise=noise, estimator="qgf", weight=2.0)
    np.testing.assert_array_equal(LAB.law(case).actions, a[:, 0])
    run = LAB.trace(case, 30)
    assert run is not None
    assert run.a.shape == (10, 30, 1)


def test_product_of_jacobians() -> None:
    """Against differences of the flow, and as T → ∞ against φ(a_0)/π̂(a_1) away from the peaks."""
    flow = LAB.flow(LawCase("exact", "distance", "none", 0.0, 400))
    p = product(flow, 500)
    h = 1e-6

    def end(shift: float) -> np.ndarray:
        z = p.noise[:, None] + shift
        return sample(flow, z[:, :0], noise=z, estimator="none")[:, 0]

    np.testing.assert_allclose(p.product, (end(h) - end(-h)) / (2 * h), rtol=1e-5, atol=1e-7)
    assert p.growth[0] == 1.0
    assert p.growth[-1] == pytest.approx(p.product[abs(p.product).argmax()], rel=1e-12)
    a0, exact = limit(1.0)
    calm = (abs(p.noise) < 2.5) & (np.interp(p.noise, a0, exact) < 1)
    ratio = p.product[calm] / np.interp(p.noise[calm], a0, exact)
    assert calm.sum() > 300
    assert abs(np.log(ratio)).max() < 0.1  # Euler's error at T = 400; measured 0.027
    # the valley between −2 and 0 is 1/0.15 sd wide: exp(6.67²/2) = 4e9 but for the other factors
    assert 1e8 < exact.max() < 1e10


def test_a_thinned_curve_keeps_its_peaks() -> None:
    noise = np.linspace(-3, 3, 100_000)
    curve = np.ones_like(noise)
    curve[[123, 45_678]] = 1e9, 1e-9
    rows = thinned(noise, {"exact": curve, "learned": noise})
    assert len(rows) <= 4 * STRETCHES
    assert [r["noise"] for r in rows] == sorted(r["noise"] for r in rows)
    assert {r["exact"] for r in rows} == {1.0, 1e9, 1e-9}
    assert rows[0]["learned"] == -3 and rows[-1]["learned"] == 3


def explode(flow: GuidedFlow, step: DenoisingStep) -> np.ndarray:
    return np.full_like(step.action, 1e300 * (1 + step.index))


def test_divergence_is_reported() -> None:
    lab = Laboratory.of(None, ["tests.studies.test_didactic:explode", "none"], 200)
    name = next(iter(lab.estimators))
    weights = (1e5, 1e6)
    cases = [LawCase("exact", c, n, w, 5) for c in ("distance", "quadratic", "bump")
             for n in lab.estimators for w in weights]  # fmt: skip
    laws = lab.laws(cases)
    law = laws[cases[0]]
    assert law.actions is None
    assert law.w1 is None
    assert law.escaped == 1.0
    assert "denoising step" in law.failure
    assert lab.trace(cases[0], 10) is None
    assert name == "tests.studies.test_didactic:explode"


def test_escaped() -> None:
    assert escaped(np.array([-2.0, 0.1, 2.4, 2.6, 9.0])) == pytest.approx(0.4)
    assert escaped(np.array([2.6]), 2.0) == 0.0


def test_claims_are_computed_from_the_distances() -> None:
    lab = Laboratory.of(None, ["ood", "qgf", "bptt", "oracle"], 200)
    weights = (0.5,)
    cases = [LawCase(f, c, n, w, T) for f in ("exact",) for c in ("distance", "quadratic", "bump")
             for n in lab.estimators for w in weights for T in (5, 8)]  # fmt: skip
    laws = lab.laws(cases)
    found = {(r["claim"], r["field"], r["T"]): r for r in claims(laws, weights, (5, 8))}
    row = found["qgf is nearer than bptt", "exact", 8]
    near = [
        (laws[c].w1 or 0) < (laws[c._replace(estimator="bptt")].w1 or 0)
        for c in cases
        if c.estimator == "qgf" and c.T == 8
    ]
    assert (row["holds"], row["of"]) == (sum(near), 3)
    # planted: a bptt that diverged everywhere is farther everywhere
    for case, law in laws.items():
        if case.estimator == "bptt":
            laws[case] = replace(law, w1=None)
    verdicts = claims(laws, weights, (5, 8))
    assert all(r["verdict"] == "confirmed" for r in verdicts if r["claim"].endswith("bptt"))


@pytest.mark.slow
def test_the_whole_study() -> None:
    outcome = study_on(TINY, StudySettings())
    assert max(map(len, outcome.text.splitlines())) <= 100
    assert drawn("didactic", outcome) == {
        *(f"{over}_{metric}" for over in AXES for metric in METRICS),
        *(f"densities_{critic}" for critic in FORMULAS),
        "divergence", "panels_exact", "panels_learned",
    }  # fmt: skip
    json.dumps(outcome.details, allow_nan=False)
    # exact: 2 weights at 2 T, 1 further T, 1 further separation; learned: 2 weights, 1 further T
    cells = 3 * (4 + 1 + 1), 3 * (2 + 1)
    rows, names = outcome.tables[""], len(default_estimators())
    # no oracle on the network; and the four panels of the network at T = many
    assert len(rows) == sum(cells) * names - cells[1] + 4
    assert all(row["w1"] > 0 and 0 <= row["kl"] <= np.log(100) for row in rows)
    assert len(outcome.tables["divergence"]) == 8


@pytest.mark.slow
def test_only_the_estimators_asked_for() -> None:
    grid = replace(TINY, weights=(0.5,), shown=(0.5,), panels=(0.5,), steps=(1,), updates=1)
    outcome = study_on(grid, StudySettings(estimators=("bc", "oracle")))
    rows = outcome.tables[""]
    assert {r["estimator"] for r in rows} == {"none", "oracle"}
    assert {r["field"] for r in rows if r["estimator"] == "oracle"} == {"exact"}
    assert "No claim" in outcome.text
    alone = study_on(grid, StudySettings(estimators=("oracle",)))
    assert "panels_learned" not in drawn("didactic", alone)
    with pytest.raises(InputError, match="unknown estimator"):
        study_on(TINY, StudySettings(estimators=("qfg",)))
