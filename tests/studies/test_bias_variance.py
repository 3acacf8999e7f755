"""The bias-variance study where the answer is known: exact networks, one Gaussian, linear noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.oracle import Oracle
from qgf_ref.guidance.registry import FunctionEstimator, estimator, estimator_names
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.bias_variance import study as bias_variance
from qgf_ref.studies.bias_variance import sweeps
from qgf_ref.studies.bias_variance.boundary import (
    PREDICTED,
    linear_response,
    measured_boundary,
    predicted_boundary,
)
from qgf_ref.studies.bias_variance.errors import PLANES, critic_errors, field_errors
from qgf_ref.studies.bias_variance.scores import Score, measure, score
from qgf_ref.studies.bias_variance.sweeps import QUICK, score_cells
from qgf_ref.studies.shared.problems import EXACT, Errors, Problem
from tests.studies.lines import drawn

DIM = 3


class OneGaussian(Problem):
    """N(μ, Σ) and Q = −½(a − a*)ᵀM(a − a*), neither Σ nor M diagonal."""

    @property
    def mixture(self) -> GaussianMixture:
        root = np.array([[0.6, 0.1, 0.0], [0.0, 0.5, 0.2], [0.1, 0.0, 0.4]])
        return GaussianMixture(np.ones(1), np.array([[0.3, -0.5, 0.1]]), (root @ root.T)[None])

    @property
    def critic(self) -> QuadraticCritic:
        root = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.1], [0.2, 0.0, 1.2]])
        return QuadraticCritic(np.array([0.8, 0.2, -0.4]), root @ root.T)


def scores(problem: Problem, name: str, errors: Errors = EXACT, draws: int = 4) -> Score:
    made = measure(problem, errors, [estimator(name)], rows=8, draws=draws, seed=0)
    return score(made.gradients[name], made.truth)


@pytest.mark.parametrize("n", [1, 3])
def test_the_oracle_has_no_bias_and_no_variance(n: int) -> None:
    result = scores(Problem(n, 0.7), "oracle")
    assert result.bias.value == result.sd.value == result.error.value == 0
    assert result.scale.value == pytest.approx(1, abs=1e-12)
    assert result.cosine.value == pytest.approx(1, abs=1e-12)


def test_of_one_gaussian_the_scheduled_estimator_is_first_order_in_w() -> None:
    """g* = S(I + wMC)⁻¹∇Q(â₁) with S = C/(1 − t), C = Cov(x1|x_t), while scheduled is S∇Q(â₁):
    their difference is S·wMC(I + wMC)⁻¹∇Q(â₁) at every t > 0.
    """
    for w in (0.01, 0.5, 3.0):
        problem = OneGaussian(DIM, w)
        made = measure(
            problem, EXACT, [estimator("qgf_jacobian_scheduled")], rows=5, draws=1, seed=1
        )
        difference = made.gradients["qgf_jacobian_scheduled"][0] - made.truth
        points = problem.points(5, 1)
        for k, t in enumerate(problem.flow.times[1:], start=1):
            _, mean, covariance = problem.flow.field.conditional(points[k], t)  # type: ignore[attr-defined]
            C, M = covariance[0], problem.critic.curvature
            solve = np.linalg.inv(np.eye(DIM) + w * M @ C)
            gradient = problem.critic.gradient(mean[:, 0])
            expected = gradient @ (C / (1 - t) @ (w * M @ C @ solve)).T
            # measured 2e-14 of the largest entry
            assert np.abs(difference[k] - expected).max() < 1e-12 * np.abs(made.truth).max()


@pytest.mark.skipif("qgf_covariance" not in estimator_names(), reason="not registered")
def test_of_one_gaussian_the_covariance_estimator_is_exact() -> None:
    problem = OneGaussian(DIM, 0.5)
    guide = estimator("qgf_covariance", iterations=DIM)
    made = measure(problem, EXACT, [guide], rows=5, draws=1, seed=1)
    # from the first positive time on: at t = 0 it takes its limit at t = 1/T
    result = score(made.gradients["qgf_covariance"][:, 1:], made.truth[1:])
    assert result.error.value < 1e-10


@pytest.mark.parametrize("name", ["ood", "qgf", "qgf_jacobian", "qgf_jacobian_scheduled"])
def test_the_variance_is_quadratic_in_the_critics_error(name: str) -> None:
    problem = Problem(2, 0.5)
    small = scores(problem, name, Errors(critic_amplitude=0.1))
    large = scores(problem, name, Errors(critic_amplitude=0.3))
    # G is linear in the error of Q: measured 1e-15
    assert large.sd.value / small.sd.value == pytest.approx(3, rel=1e-12)


def test_error_is_bias_and_sd_together_and_scale_never_hurts() -> None:
    problem = Problem(2, 0.5)
    result = scores(problem, "qgf", Errors(critic_amplitude=0.3, field_amplitude=0.1))
    assert result.error.value**2 == pytest.approx(result.bias.value**2 + result.sd.value**2)
    assert result.scaled_error.value <= result.error.value
    assert result.scaled_error.low <= result.scaled_error.value <= result.scaled_error.high


def test_a_planted_error_is_measured() -> None:
    """An oracle with 10% too much and a noise of 0.2 times the size of g*."""
    problem = Problem(2, 0.5)
    truth = problem.truth(problem.points(64, 0))
    size = np.sqrt((truth**2).sum(axis=-1).mean())
    rng = np.random.default_rng(0)

    def planted(flow: GuidedFlow, step: DenoisingStep) -> Array:
        exact = replace(flow, field=MixtureFlow(problem.mixture), critic=problem.critic)
        noise = rng.standard_normal(step.action.shape) * 0.2 * size / np.sqrt(2)
        return 1.1 * Oracle()(exact, problem.step(exact, step.action, step.index)).gradient + noise

    errors = Errors(critic_amplitude=1e-9)  # so that there are draws
    guide = FunctionEstimator(planted, "planted")
    made = measure(problem, errors, [guide], rows=64, draws=30, seed=0)
    result = score(made.gradients["planted"], made.truth)
    # 19200 noise vectors: their mean square is known to 1%; the bias, 0.1, has 0.2/√30 removed
    assert result.sd.value == pytest.approx(0.2, rel=0.03)
    assert result.bias.value == pytest.approx(0.1, rel=0.05)
    assert result.scale.value == pytest.approx(1.1 / (1.1**2 + 0.04), rel=0.01)
    assert result.scaled_bias.value < result.bias.value


def test_the_calculation_matches_small_errors() -> None:
    """The linear response against many draws of errors that are small."""
    problem = Problem(2, 0.5)
    guides = [estimator(name) for name in PREDICTED]
    points = problem.points(24, 3)
    response = linear_response(problem, points, problem.truth(points))
    slope = problem.critic_slope(points)
    for errors in (critic_errors(problem, slope, 0.1), field_errors(problem, 0.05)):
        made = measure(problem, errors, guides, rows=24, draws=40, seed=3)
        for name in PREDICTED:
            measured = score(made.gradients[name], made.truth)
            expected = np.sqrt(response[name].noise(errors) * response[name].size)
            expected /= np.sqrt(response[name].truth)
            # 40 draws whose errors are alike at neighbouring points: measured within 10%
            assert measured.sd.value == pytest.approx(expected, rel=0.25), name
            assert measured.scaled_error.value == pytest.approx(
                response[name].error(errors), rel=0.05
            )


def test_boundaries() -> None:
    assert measured_boundary((0, 0.1, 1), (0.5, 0.2, -0.2)) == pytest.approx(0.1 * 10**0.5)
    assert measured_boundary((0, 0.1, 1), (-0.5, 0.2, 0.2)) == 0
    assert measured_boundary((0, 0.1, 1), (0.5, 0.2, 0.2)) == float("inf")
    assert measured_boundary((0, 0.1, 1), (0.5, -0.2, -0.3)) == 0.1
    problem = Problem(2, 0.5)
    points = problem.points(32, 0)
    response = linear_response(problem, points, problem.truth(points))
    pair = response["qgf"], response["qgf_jacobian_scheduled"]
    unit = field_errors(problem, 1.0)
    factor = predicted_boundary(*pair, unit)
    at = replace(unit, field_amplitude=factor * unit.field_amplitude)
    assert pair[0].error(at) == pytest.approx(pair[1].error(at), rel=1e-9)
    assert predicted_boundary(pair[1], pair[0], unit) == 0


TINY = replace(
    QUICK,
    dims=(1, 2),
    noisy_dims=(2,),
    weights=(0.3,),
    strains=(0.0, 0.3),
    rhos=(0.0, 1.0),
    separations=(1.0,),
    sds=(0.15,),
    exact_rows=8,
    rows=4,
    draws=2,
    curl_rows=2,
    sample_rows=16,
    sample_draws=2,
)


@pytest.mark.slow
def test_the_study_in_miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_variance, "QUICK", TINY)
    monkeypatch.setattr(sweeps, "PLANES", PLANES[-1:])
    names = ("ood", "qgf", "qgf_jacobian", "qgf_jacobian_scheduled")
    settings = StudySettings(quick=True, estimators=names)
    outcome = bias_variance.study(settings)
    assert max(len(line) for line in outcome.text.splitlines()) <= 100
    assert set(outcome.tables) == {"", "boundary", "phase", "curl", "samples"}
    assert {row["estimator"] for row in outcome.tables[""]} == set(names)
    curl = [r for r in outcome.tables["curl"] if r["estimator"] == "qgf_jacobian"]
    assert max(r["value"] for r in curl) < 1e-10  # a gradient field: measured 1e-14
    curl = [r for r in outcome.tables["curl"] if r["estimator"] == "qgf"]
    assert min(r["value"] for r in curl if r["networks"] != "exact" and r["t"] < 0.5) > 1e-3
    assert drawn("bias-variance", outcome) == {
        "time", "weight", "noise", "bias_variance", "curl", "samples",
        "phase_qgf_jacobian", "phase_qgf_jacobian_scheduled",
    }  # fmt: skip
    again = [r for cell in score_cells(TINY, [estimator(n) for n in names], 0) for r in cell()]
    assert list(outcome.tables[""]) == again


def test_the_oracle_is_refused() -> None:
    with pytest.raises(InputError, match="leave it out"):
        bias_variance.study(StudySettings(quick=True, estimators=("oracle",)))
