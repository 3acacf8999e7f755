"""qgf_covariance and qgf_shifted where they are exact, and where they must give way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.denoising import denoising_step
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import AnalyticCritic, QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint, states

WEIGHTS = (0.1, 1.0, 10.0)
A = np.array([[1.0, 0.3, -0.2], [0.3, 0.6, 0.1], [-0.2, 0.1, 0.8]])


def flow_of(mixture: GaussianMixture, critic: AnalyticCritic, T: int = 10) -> GuidedFlow:
    return GuidedFlow(MixtureFlow(mixture), critic, T, action_bound=None)


def gradients(flow: GuidedFlow, name: str, k: int, weight: float, **options: Any) -> Array:
    action = np.random.default_rng(k).standard_normal((7, flow.field.action_dim))
    step = denoising_step(flow, np.zeros((7, 0)), action, k, weight)
    return estimator(name, **options)(flow, step).gradient


def relative(x: Array, y: Array) -> float:
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("k", [1, 5, 9])
def test_covariance_is_the_oracle_of_one_gaussian_and_a_quadratic_critic(
    k: int, weight: float
) -> None:
    """With D iterations. Measured ≤ 3e-13 (k = 9, where C is smallest)."""
    mixture = GaussianMixture(np.ones(1), np.array([[0.5, -1.0, 0.2]]), 0.3 * A[None])
    flow = flow_of(mixture, QuadraticCritic(np.array([1.0, 0.0, -1.0]), A @ A))
    exact = gradients(flow, "oracle", k, weight)
    assert relative(gradients(flow, "qgf_covariance", k, weight, iterations=3), exact) < 2e-12
    one = relative(gradients(flow, "qgf_covariance", k, weight, iterations=1), exact)
    first_order = relative(gradients(flow, "qgf_jacobian_scheduled", k, weight), exact)
    assert 1e-6 < one < first_order


@pytest.mark.parametrize("weight", WEIGHTS)
def test_shifted_is_the_oracle_of_any_mixture_and_an_isotropic_quadratic_critic(
    weight: float,
) -> None:
    """Three modes, times as they come, two passes: to rounding, at every step but t = 0, and there
    too because μ > 0 gives a λ′ of its own. Measured ≤ 2e-13.
    """
    mixture = GaussianMixture(
        np.array([0.5, 0.2, 0.3]),
        np.array([[2.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, -2.0, -1.0]]),
        np.stack([0.1 * A, 0.05 * A @ A, 0.2 * np.eye(3)]),
    )
    flow = flow_of(mixture, QuadraticCritic(np.array([1.0, 0.0, -1.0]), 0.7 * np.eye(3)))
    for k in (0, 1, 5, 9):
        if level_is_below_the_grids_first(k, weight):
            continue
        exact = gradients(flow, "oracle", k, weight)
        assert relative(gradients(flow, "qgf_shifted", k, weight, grid=False), exact) < 1e-12
        on_grid = relative(gradients(flow, "qgf_shifted", k, weight), exact)
        assert on_grid > 1e-9, "snapping to the grid costs something"


def level_is_below_the_grids_first(k: int, weight: float) -> bool:
    return k == 0 and weight * 0.7 < (0.1 / 0.9) ** 2


class _Linear(AnalyticCritic):
    def value(self, action: Array) -> Array:
        return action @ np.array([1.0, -2.0, 0.5])

    def gradient(self, action: Array) -> Array:
        return np.broadcast_to([1.0, -2.0, 0.5], action.shape)

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        return np.zeros_like(action_dot)


def test_shifted_with_a_linear_critic_is_exact_in_one_pass_on_the_grid() -> None:
    """Against the tilted mixture in closed form: exp(w⟨c, a⟩) moves every mean by wΣc."""
    weights, covariances = np.array([0.5, 0.5]), np.stack([0.1 * A, 0.3 * np.eye(3)])
    means = np.array([[2.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    slope, w, k = np.array([1.0, -2.0, 0.5]), 0.4, 4
    flow = flow_of(GaussianMixture(weights, means, covariances), _Linear())
    moved = means + w * covariances @ slope
    log = np.log(weights) + w * means @ slope
    log = log + 0.5 * w**2 * np.einsum("i,mij,j->m", slope, covariances, slope)
    tilted = np.exp(log - log.max())
    exact = MixtureFlow(GaussianMixture(tilted / tilted.sum(), moved, covariances))
    x = np.random.default_rng(k).standard_normal((7, 3))
    expected = (exact.forward(x, x, 0.4)[0] - flow.field.forward(x, x, 0.4)[0]) / w
    for passes in (1, 2):
        found = gradients(flow, "qgf_shifted", k, w, passes=passes)
        assert relative(found, expected) < 1e-12  # measured 4e-15


@pytest.mark.parametrize("name", ["qgf_covariance", "qgf_shifted"])
def test_the_first_order_in_w_is_the_scheduled_estimator(name: str) -> None:
    mixture = GaussianMixture.isotropic([0.5, 0.5], [[1.0, 0.0], [-1.0, 1.0]], 0.4)
    flow = flow_of(mixture, QuadraticCritic(np.array([1.0, 1.0]), np.diag([1.0, 3.0])))
    first = gradients(flow, "qgf_jacobian_scheduled", 4, 1e-4)
    errors = [relative(gradients(flow, name, 4, w), first) for w in (1e-3, 1e-4)]
    assert errors[1] < 3e-4
    assert 9 < errors[0] / errors[1] < 11  # it falls with w


def test_covariance_without_weight_is_the_limit_and_shifted_gives_nothing() -> None:
    mixture = GaussianMixture.isotropic([0.5, 0.5], [[1.0, 0.0], [-1.0, 1.0]], 0.4)
    flow = flow_of(mixture, QuadraticCritic(np.ones(2), np.eye(2)))
    limit = gradients(flow, "qgf_jacobian_scheduled", 4, 0.0)
    assert relative(gradients(flow, "qgf_covariance", 4, 0.0), limit) < 1e-14
    assert not gradients(flow, "qgf_shifted", 4, 0.0).any()


def test_where_q_is_convex_covariance_stops_at_the_first_order() -> None:
    """M indefinite, and w so large that (I + wMC) is too: the plain solution would turn round."""
    mixture = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    saddle = QuadraticCritic(np.array([2.0, 2.0]), np.diag([-5.0, -5.0]))
    flow = flow_of(mixture, saddle)
    first = gradients(flow, "qgf_jacobian_scheduled", 5, 3.0)
    assert relative(gradients(flow, "qgf_covariance", 5, 3.0, iterations=4), first) < 1e-14
    mixed = flow_of(mixture, QuadraticCritic(np.array([2.0, 1.0]), np.diag([4.0, -4.0])))
    step_size = np.linalg.norm(gradients(mixed, "qgf_covariance", 5, 30.0, iterations=2), axis=1)
    bound = np.linalg.norm(gradients(mixed, "qgf_jacobian_scheduled", 5, 30.0), axis=1)
    assert np.isfinite(step_size).all()
    assert (step_size <= 2 * bound).all()


def test_guidance_of_any_weight_stays_where_the_denoiser_puts_it() -> None:
    mixture = GaussianMixture.isotropic([0.5, 0.5], [[1.0, 0.0], [-1.0, 1.0]], 0.1)
    flow = flow_of(mixture, QuadraticCritic(np.array([8.0, 8.0]), np.eye(2)))
    noise = np.random.default_rng(0).standard_normal((200, 2))

    def reach(name: str) -> float:
        action = sample(flow, np.zeros((200, 0)), estimator=name, weight=3.0, noise=noise)
        nearest = np.linalg.norm(action[:, None] - mixture.means, axis=2).min(axis=1)
        return float(nearest.max())

    assert reach("qgf_shifted") < 1.0 < 3.0 < reach("qgf")


def test_taylor_lowers_the_integrators_error() -> None:
    """One Gaussian, w → 0: Euler's T = 10 standard deviation is 18% short."""
    mixture = GaussianMixture.isotropic([1.0], [[0.0]], 0.15)
    flow = flow_of(mixture, QuadraticCritic(np.zeros(1), np.eye(1)))
    noise = np.random.default_rng(0).standard_normal((50, 1))

    def shortfall(name: str) -> float:
        action = sample(flow, np.zeros((50, 0)), estimator=name, weight=1e-6, noise=noise)
        return float(abs((action / noise / 0.15).mean() - 1))

    plain, second = shortfall("qgf_shifted"), shortfall("qgf_shifted_taylor")
    assert second < 0.35 * plain
    assert plain > 0.1


@pytest.mark.parametrize(
    ("name", "options"), [("qgf_covariance", {"iterations": 0}), ("qgf_shifted", {"passes": 0})]
)
def test_counts_below_one_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be an integer ≥ 1"):
        estimator(name, **options)


@pytest.mark.parametrize("name", ["qgf_covariance", "qgf_shifted"])
def test_at_time_one_nothing_is_left_to_guide(name: str) -> None:
    """A port's grid may hold t = 1 (`compare` simulates linspace(0, 1, T) and t = 1 − k/T)."""
    mixture = GaussianMixture.isotropic([0.5, 0.5], [[1.0, 0.0], [-1.0, 1.0]], 0.4)
    flow = flow_of(mixture, QuadraticCritic(np.ones(2), np.eye(2)))
    step = denoising_step(flow, np.zeros((3, 0)), np.ones((3, 2)), 4, 0.3)
    assert not estimator(name)(flow, replace(step, time=1.0)).gradient.any()


@pytest.mark.parametrize("name", ["qgf_covariance", "qgf_shifted", "qgf_shifted_taylor"])
def test_in_float32_everything_is_float32_and_each_row_has_its_weight(name: str) -> None:
    """Measured ≤ 6e-7 (covariance) and 3.4e-5 (shifted: a small difference over w = 0.1)."""
    wide, ck = small_checkpoint(), small_checkpoint().astype("float32")
    tolerance = 3e-6 if name == "qgf_covariance" else 1.5e-4
    obs, action = states(wide, 4)
    weights = np.array([[0.0], [0.1], [1.0], [3.0]])
    for k in (0, 3):
        exact = estimator(name)(wide.flow, denoising_step(wide.flow, obs, action, k, weights))
        state, a, w = (x.astype(np.float32) for x in (obs, action, weights))
        found = estimator(name)(ck.flow, denoising_step(ck.flow, state, a, k, w))
        bent = (found.acceleration, exact.acceleration)
        for got, expected in ((found.gradient, exact.gradient), bent):
            if got is None or expected is None:
                continue
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * abs(expected).max())
        alone = denoising_step(wide.flow, obs[1:2], action[1:2], k, 0.1)
        one = estimator(name)(wide.flow, alone).gradient
        np.testing.assert_allclose(exact.gradient[1:2], one, rtol=5e-14)  # measured 3e-15


@pytest.mark.parametrize("name", ["qgf_covariance", "qgf_shifted", "qgf_shifted_taylor"])
def test_compiled_kernels_agree(name: str) -> None:
    pytest.importorskip("numba")
    ck = small_checkpoint()
    obs, noise = states(ck, 4)
    weights = np.array([0.0, 0.1, 0.3, 1.0])
    one, other = (
        sample(ck.flow, obs, estimator=name, weight=weights, noise=noise, backend=backend)
        for backend in ("numpy", "numba")
    )
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-14)  # measured 1.3e-15


def test_guidance_vanishes_with_the_weight_at_every_step() -> None:
    """At t = 0 too, where the denoiser is asked at t₁: w·G halves when w does."""
    mixture = GaussianMixture.isotropic([0.3, 0.7], [[1.0, 0.0], [-1.0, 1.0]], 0.2)
    flow = flow_of(mixture, QuadraticCritic(np.array([1.0, 1.0]), np.diag([1.0, 3.0])))
    for k in (0, 1, 5):
        for grid in (True, False):
            sizes = [
                float(np.linalg.norm(w * gradients(flow, "qgf_shifted", k, w, grid=grid)))
                for w in (2e-6, 1e-6)
            ]
            assert sizes[0] / sizes[1] == pytest.approx(2, rel=1e-3)
            assert sizes[1] < 1e-3
