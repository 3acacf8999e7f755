"""The noise study on fields and critics whose sensitivity is known, and on small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.registry import estimator
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.noise.study import (
    Sensitivities,
    Sensitivity,
    lead_rows,
    sensitivity,
    study,
)
from qgf_ref.studies.noise.words import verdict
from qgf_ref.studies.shared import trained
from qgf_ref.studies.shared.trained import chain
from tests.conftest import small_checkpoint
from tests.studies.lines import drawn

ROWS = 7


def linear_flow() -> tuple[GuidedFlow, list[DenoisingStep], Array]:
    """Q = −½‖a − a*‖² with a field of one Gaussian: every map is affine."""
    mixture = GaussianMixture.isotropic((1.0,), np.zeros((1, 3)), 0.5)
    critic = QuadraticCritic(np.full(3, 0.3), np.eye(3))
    flow = GuidedFlow(MixtureFlow(mixture), critic, 4, action_bound=None)
    states = chain(flow, np.zeros((ROWS, 0)), 0)
    xi = np.random.default_rng(5).standard_normal((4, ROWS, 3))
    return flow, states, xi


def constant(flow: GuidedFlow, step: DenoisingStep) -> Array:
    """The same G everywhere, whose change is nothing and whose cosine is 1."""
    return np.ones_like(step.action)


def test_a_constant_gradient_is_perfectly_insensitive_and_says_so() -> None:
    flow, states, xi = linear_flow()
    found = sensitivity(estimator(constant), flow, states, xi, (0.1, 1.0))
    # 4e-16: three products and a root in float64
    np.testing.assert_allclose(found.cosine, 1, rtol=0, atol=1e-15)
    assert (found.change == 0).all()
    np.testing.assert_allclose(found.between, 1, rtol=0, atol=1e-15)


def test_against_the_formula_of_a_quadratic_critic() -> None:
    flow, states, xi = linear_flow()
    found = sensitivity(estimator("ood"), flow, states, xi, (0.1, 1.0))
    for s, sigma in enumerate((0.1, 1.0)):
        for k, step in enumerate(states):
            G = 0.3 - step.action
            near = G - sigma * xi[k]
            norms = np.linalg.norm(G, axis=1)
            expected = (G * near).sum(axis=1) / norms / np.linalg.norm(near, axis=1)
            np.testing.assert_allclose(found.cosine[s, k], expected, rtol=0, atol=1e-14)
            moved = sigma * np.linalg.norm(xi[k], axis=1) / norms.mean()
            np.testing.assert_allclose(found.change[s, k], moved, rtol=1e-13)
            np.testing.assert_allclose(found.norm[k], norms, rtol=1e-14)


def test_a_zero_gradient_has_no_cosine() -> None:
    flow, states, xi = linear_flow()
    found = sensitivity(estimator("none"), flow, states, xi, (0.1,))
    assert np.isnan(found.cosine).all()
    assert np.isnan(found.change).all()


def planted(cosines: dict[str, float]) -> Sensitivities:
    """Estimators with these cosines, ± a little over 20 observations, at one σ and two t."""
    jitter = np.linspace(-0.001, 0.001, 20)

    def made(value: float, sign: int) -> list[Sensitivity]:
        cosine = np.broadcast_to(value + sign * jitter, (1, 2, 20))
        return [Sensitivity(cosine, 1 - cosine, cosine[0], cosine[0])]

    return {name: made(v, 1 if name == "qgf" else -1) for name, v in cosines.items()}


@pytest.mark.parametrize(
    ("rival", "answer", "counts"),
    [
        (0.8, "paper's rivals: yes", "ahead at 2, behind at 0 of 2"),
        (0.95, "paper's rivals: no; less sensitive at some σ: ood", "ahead at 0, behind at 2 of 2"),
        (
            0.9,
            "paper's rivals: never behind; within the interval at some σ of: ood",
            "ahead at 0, behind at 0 of 2",
        ),
    ],
)
def test_the_verdict_follows_the_planted_order(rival: float, answer: str, counts: str) -> None:
    measured = planted({"qgf": 0.9, "ood": rival})
    text = " ".join(verdict(lead_rows(measured, (0.1,), (0.0, 0.5))).split())
    assert answer in text
    assert counts in text


def test_a_lead_is_over_the_times_at_which_both_have_a_cosine() -> None:
    measured = planted({"qgf": 0.9, "ood": 0.9})
    qgf, rival = (measured[name][0].cosine.copy() for name in ("qgf", "ood"))
    qgf[0, 0], qgf[0, 1], rival[0, 0], rival[0, 1] = 0.5, 0.9, np.nan, 0.9
    for name, cosine in (("qgf", qgf), ("ood", rival)):
        measured[name][0] = replace(measured[name][0], cosine=cosine)
    assert lead_rows(measured, (0.1,), (0.0, 0.5))[0]["value"] == 0


def test_checkpoints_that_cannot_be_compared() -> None:
    one = small_checkpoint(0, dtype="float32")
    other = small_checkpoint(1, dtype="float32")
    longer = replace(other, options=replace(other.options, denoise_steps=7))
    for checkpoints, message in (
        ((), "give --checkpoint"),
        ((one, one), "given twice"),
        ((one, longer), "denoising steps"),
    ):
        with pytest.raises(InputError, match=message):
            study(StudySettings(True, 0, ("ood", "qgf"), checkpoints))


def test_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = tuple(small_checkpoint(i, dtype="float32") for i in range(2))
    obs = np.random.default_rng(3).standard_normal((9, 5)).astype(np.float32)
    monkeypatch.setattr(trained, "observations", lambda settings, index, rows: obs)
    settings = StudySettings(True, 0, ("ood", "qgf", "qgf_masked"), checkpoints)
    found = study(settings)
    rows = {
        (r["estimator"], r["measure"], r["sigma"], r["time"]): r["value"] for r in found.tables[""]
    }
    assert rows["ood", "cosine", 0.003, "all"] > rows["ood", "cosine", 1.0, "all"]
    assert len({t for *_, t in rows}) == 1 + checkpoints[0].options.denoise_steps
    assert "2 checkpoints (Student's t)" in " ".join(found.text.split())
    assert max(map(len, found.text.splitlines())) <= 100
    assert drawn("noise", found) == {"", "by_time"}
    # the same seed, the same numbers; another, others
    again = study(settings).tables[""]
    assert again == found.tables[""]
    assert study(replace(settings, seed=1)).tables[""] != again
