"""Closed-form flows against quadrature, complex step, and the samplers' convergence to them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from qgf_ref import (
    BumpCritic,
    DistanceCritic,
    GaussianMixture,
    GuidedFlow,
    InputError,
    MixtureFlow,
    QuadraticCritic,
    sample,
)
from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.flow.quadrature import TiltedLaw
from tests.helpers.closed_form import TARGET, TRIMODAL, correlated, critic_of
from tests.helpers.some import some


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_velocity_products(dim: int, t: float) -> None:
    flow = MixtureFlow(correlated(dim))
    x = np.random.default_rng(2).standard_normal((4, dim))

    def f(a: Array) -> Array:
        return flow.forward(a, a, t)[0]

    def jvp(a: Array, u: Array) -> Array:
        return flow.jvp(u, flow.forward(a, a, t)[1])

    def vjp(a: Array, u: Array) -> Array:
        return flow.vjp(u, flow.forward(a, a, t)[1])

    check_jvp(f, jvp, x)
    check_vjp(f, vjp, x)
    check_adjoint(f, jvp, vjp, x)


@pytest.mark.parametrize("t", [0.0, 0.4, 0.8])
def test_velocity_is_the_conditional_mean_by_quadrature(t: float) -> None:
    """v = E[x1 − x0 | x_t = x] with x0 = (x − t x1)/(1 − t), by scipy.integrate."""

    def density(a: float) -> float:
        parts = norm.pdf(a, TRIMODAL.means[:, 0], 0.15)
        return float(TRIMODAL.weights @ parts)

    for x in (-1.2, 0.1, 0.8):

        def weight(a: float, x: float = x) -> float:
            return density(a) * float(norm.pdf(x, t * a, 1 - t))

        limits = {"limit": 400, "epsabs": 1e-13, "points": [-2.0, 0.0, 1.0]}
        mass = quad(weight, -4, 3, **limits)[0]
        mean = quad(lambda a, w=weight: a * w(a), -4, 3, **limits)[0] / mass
        v = MixtureFlow(TRIMODAL).forward(np.zeros((1, 0)), np.array([[x]]), t)[0][0, 0]
        assert abs(v - (mean - (x - t * mean) / (1 - t))) < 1e-9


def test_velocity_satisfies_the_score_identity() -> None:
    """v = (x + (1 − t)∇log p_t)/t (method.md, section 6)."""
    mixture, t = correlated(3), 0.6
    x = np.random.default_rng(3).standard_normal((5, 3))
    h = 1e-30
    score = np.stack(
        [mixture.at_time(t).log_density(x + 1j * h * np.eye(3)[i]).imag / h for i in range(3)],
        axis=1,
    )
    v = MixtureFlow(mixture).forward(x, x, t)[0]
    np.testing.assert_allclose(v, (x + (1 - t) * score) / t, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_tilted_mixture_is_proportional_to_exp_wq(dim: int) -> None:
    mixture, critic, w = correlated(dim), critic_of(dim), 1.7
    x = np.random.default_rng(4).standard_normal((50, dim))
    ratio = mixture.tilted(critic, w).log_density(x) - mixture.log_density(x) - w * critic.value(x)
    np.testing.assert_allclose(ratio, ratio[0], atol=1e-12)


@pytest.mark.parametrize("w", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_exact_guidance_closed_form_against_quadrature(w: float, t: float) -> None:
    """The same Q given as quadratic and as a general critic. Measured ≤ 7e-14; target 1e-10."""
    hidden = BumpCritic(TARGET, np.zeros(1), 0.0, 1.0)
    x = np.linspace(-3, 3, 13)[:, None]
    flow = MixtureFlow(TRIMODAL)
    closed = flow.guided_velocity(x, t, TARGET, w)
    np.testing.assert_allclose(flow.guided_velocity(x, t, hidden, w), closed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_exact_guidance_is_the_gradient_of_log_h(t: float) -> None:
    """guided − v = ((1 − t)/t)·∇log h_t, h_t = E[exp(wQ)|x_t], h by scipy, ∇ by differences."""
    critic, w, x = DistanceCritic(0.4), 2.0, 0.3
    flow = MixtureFlow(TRIMODAL)

    def log_h(at: float) -> float:
        r, means, covariances = flow.conditional(np.array([[at]]), t)
        total = 0.0
        for i in range(3):
            m, s = means[0, i, 0], np.sqrt(covariances[i, 0, 0])
            value = quad(
                lambda a, m=m, s=s: float(np.exp(-w * abs(a - 0.4)) * norm.pdf(a, m, s)),
                m - 12 * s, m + 12 * s, points=[0.4] if abs(m - 0.4) < 12 * s else None,
                epsabs=1e-15, epsrel=1e-13, limit=200,
            )[0]  # fmt: skip
            total += r[0, i] * value
        return float(np.log(total))

    h = 1e-4
    slope = (8 * (log_h(x + h) - log_h(x - h)) - (log_h(x + 2 * h) - log_h(x - 2 * h))) / (12 * h)
    at = np.array([[x]])
    guidance = flow.guided_velocity(at, t, critic, w) - flow.forward(at, at, t)[0]
    assert abs(guidance[0, 0] - (1 - t) / t * slope) < 1e-9  # measured 1e-11; differences' limit


def exact_quantiles(critic: QuadraticCritic | DistanceCritic, w: float, rows: int) -> Array:
    law = TiltedLaw.of(TRIMODAL.log_density, critic, w, -5, 5)
    return law.quantile((np.arange(rows) + 0.5) / rows)


@pytest.mark.parametrize(
    ("w", "expected"),
    some(
        [
            (
                0.1,
                {
                    "ood": 0.141,
                    "qgf": 0.120,
                    "qgf_jacobian": 0.079,
                    "qgf_jacobian_scheduled": 0.025,
                },
            ),
            (
                2.0,
                {
                    "ood": 0.338,
                    "qgf": 0.305,
                    "qgf_jacobian": 0.276,
                    "qgf_jacobian_scheduled": 0.395,
                },
            ),
        ],
        1,
    ),
)
def test_distances_of_method_md(w: float, expected: dict[str, float]) -> None:
    """method.md section 6: Wasserstein-1 to the exact tilted law, T = 200; 5,000 samples here."""
    rows = 5000
    flow = GuidedFlow(MixtureFlow(TRIMODAL), TARGET, 200, action_bound=None)
    exact = exact_quantiles(TARGET, w, rows)
    noise = norm.ppf((np.arange(rows) + 0.5) / rows)[:, None]  # N(0, 1) without sampling error
    for name, distance in expected.items():
        a = sample(flow, np.zeros((rows, 0)), noise=noise, estimator=name, weight=w)
        # method.md's 20,000 random draws carry ±0.006
        assert abs(wasserstein_distance(a[:, 0], exact) - distance) < 0.01
    a = sample(flow, np.zeros((rows, 0)), noise=noise, estimator="oracle", weight=w)
    assert wasserstein_distance(a[:, 0], exact) < 0.012


@pytest.mark.parametrize(
    ("estimator", "critic"),
    some([("none", TARGET), ("oracle", TARGET), ("oracle", DistanceCritic(0.4))], 2),
)
def test_sampler_converges_at_first_order(
    estimator: str, critic: QuadraticCritic | DistanceCritic
) -> None:
    """T → ∞: the error against the exact law halves as T doubles (Euler: slope −1).

    In one dimension the flow maps the noise's quantiles to the law's, so the error is measured
    sample by sample, without sampling noise.
    """
    mixture = GaussianMixture.isotropic(np.array([0.6, 0.4]), np.array([[-0.6], [0.7]]), 0.5)
    w, p = 1.5, np.linspace(0.02, 0.98, 49)
    tilt = w if estimator == "oracle" else 0.0
    law = TiltedLaw.of(mixture.log_density, critic, tilt, -6, 6)
    errors = []
    steps = (50, 100, 200, 400)
    for T in steps:
        flow = GuidedFlow(MixtureFlow(mixture), critic, T, action_bound=None)
        noise = norm.ppf(p)[:, None]
        a = sample(flow, np.zeros((len(p), 0)), noise=noise, estimator=estimator, weight=w)
        errors.append(abs(a[:, 0] - law.quantile(p)).mean())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.15 < slope < -0.9, f"slope {slope}, errors {errors}"


@pytest.mark.slow
def test_convergence_in_three_dimensions() -> None:
    """The oracle's samples reach the tilted mixture's mean and covariance within sampling error."""
    mixture, critic, w, rows = correlated(3), critic_of(3), 1.0, 4000
    tilted = mixture.tilted(critic, w)
    flow = GuidedFlow(MixtureFlow(mixture), critic, 200, action_bound=None)
    a = sample(flow, np.zeros((rows, 0)), rng=0, estimator="oracle", weight=w)
    mean, covariance = tilted.moments()
    # 5 standard errors, plus Euler's error of O(1/200)
    assert (abs(a.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / rows) + 0.01).all()
    assert abs(np.cov(a.T) - covariance).max() < 0.08


def test_mixture_samples_have_its_moments() -> None:
    mixture, rows = correlated(2), 40_000
    x = mixture.sample(np.random.default_rng(0), rows)
    mean, covariance = mixture.moments()
    assert (abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / rows)).all()
    assert abs(np.cov(x.T) - covariance).max() < 0.05 * abs(covariance).max()
    # one correlated component alone: a transposed Cholesky factor gives other moments
    one = GaussianMixture(np.ones(1), mixture.means[:1], mixture.covariances[:1])
    x = one.sample(np.random.default_rng(0), rows)
    assert abs(np.cov(x.T) - one.covariances[0]).max() < 0.05 * abs(one.covariances[0]).max()


def test_tabulated_law_agrees_with_the_tilted_mixture() -> None:
    w = 3.0
    law, tilted = TiltedLaw.of(TRIMODAL.log_density, TARGET, w, -6, 6), TRIMODAL.tilted(TARGET, w)
    mean = float(tilted.weights @ tilted.means[:, 0])
    second = float(tilted.weights @ (tilted.means[:, 0] ** 2 + tilted.covariances[:, 0, 0]))
    assert abs(law.expectation(lambda a: a) - mean) < 1e-12
    assert abs(law.expectation(lambda a: a * a) - second) < 1e-12
    draws = law.sample(np.random.default_rng(0), 40_000)
    assert abs(draws.mean() - mean) < 5 * np.sqrt((second - mean**2) / 40_000)


def test_extreme_weights_and_no_rows() -> None:
    flow = MixtureFlow(TRIMODAL)
    x = np.array([[0.3], [-2.0]])
    extreme = flow.guided_velocity(x, 0.5, DistanceCritic(0.4), 1e6)
    # the tilt leaves only a = 0.4, towards which the flow must move: v = (0.4 − x)/(1 − t)
    np.testing.assert_allclose(extreme, (0.4 - x) / 0.5, atol=3e-3)
    assert flow.guided_velocity(x[:0], 0.5, DistanceCritic(0.4), 1.0).shape == (0, 1)


def test_closed_form_critics() -> None:
    x = np.random.default_rng(0).standard_normal((6, 1))
    bump = BumpCritic(DistanceCritic(0.4), np.array([-1.0]), 2.0, 0.3)
    for critic in (TARGET, DistanceCritic(0.4), bump):
        check_jvp(critic.value, lambda a, u, c=critic: (c.gradient(a) * u).sum(-1), x,
                  oracle="central_difference")  # fmt: skip
    assert bump.kinks == (0.4,)


def test_bad_mixtures_and_uses() -> None:
    with pytest.raises(InputError, match="sum to 1"):
        GaussianMixture.isotropic(np.array([0.5, 0.4]), np.zeros((2, 1)), 1.0)
    with pytest.raises(InputError, match="positive definite"):
        GaussianMixture(np.ones(1), np.zeros((1, 1)), np.zeros((1, 1, 1)))
    with pytest.raises(InputError, match="weights"):
        GaussianMixture(np.ones(2), np.zeros((1, 1)), np.ones((1, 1, 1)))
    with pytest.raises(InputError, match="symmetric"):
        QuadraticCritic(np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(InputError, match="outgrows"):
        TRIMODAL.tilted(QuadraticCritic(np.zeros(1), -np.eye(1)), 100.0)
    for bad in (
        lambda: GaussianMixture(np.array([np.nan]), np.zeros((1, 1)), np.ones((1, 1, 1))),
        lambda: GaussianMixture(np.ones(1), np.zeros((1, 2)), np.array([[[1.0, 0.5], [0.0, 1.0]]])),
        lambda: GaussianMixture.isotropic([1.0], [0.0], 1.0),
        lambda: GaussianMixture.isotropic([1.0], [[0.0]], -1.0),
        lambda: QuadraticCritic(np.array(1.0), np.eye(1)),
        lambda: GuidedFlow(MixtureFlow(TRIMODAL), TARGET, 10, action_bound=-1.0),
        lambda: GuidedFlow(MixtureFlow(TRIMODAL), TARGET, 0),
        lambda: GuidedFlow(MixtureFlow(TRIMODAL), TARGET, 5, time_precision="half"),  # type: ignore[arg-type]
        lambda: sample(
            GuidedFlow(MixtureFlow(TRIMODAL), critic_of(2), 5), np.zeros((1, 0)), rng=0, weight=1.0
        ),
    ):
        with pytest.raises(InputError):
            bad()
    with pytest.raises(InputError, match="one dimension"):
        flow = MixtureFlow(correlated(2))
        flow.guided_velocity(np.zeros((1, 2)), 0.5, DistanceCritic(0.0), 1.0)
