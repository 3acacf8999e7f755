"""Real-time chunking's guidance: both public codes in dense algebra, and the exact law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.prefix import PrefixCritic, prefix_flow, prefix_weights
from qgf_ref.studies.prefix.study import LAWS, ChunkLaw, affine_map, distances
from qgf_ref.testing import check_flow
from tests.conftest import small_checkpoint, states

H, D_KNOWN = 5, 2
PAPER, LEROBOT = "qgf_jacobian_unmasked+schedule=rtc,5", "qgf+schedule=rtc,10"


def gaussian(covariance: Array, weights: Array, steps: int) -> GuidedFlow:
    n = len(covariance)
    law = MixtureFlow(GaussianMixture(np.ones(1), np.zeros((1, n)), covariance[None]))
    unused = QuadraticCritic(np.zeros(n), np.eye(n))
    return prefix_flow(GuidedFlow(law, unused, steps), weights)


@pytest.mark.parametrize("jacobian", [True, False])
def test_it_is_the_loop_of_either_code(jacobian: bool) -> None:
    """Theirs, written down in dense algebra: v = A_t x of Gaussian data, its Jacobian A_t."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((H, H))
    covariance, weights, T = root @ root.T / H + 0.1 * np.eye(H), prefix_weights(1, 4, H), 7
    y, x = rng.standard_normal((3, H)), rng.standard_normal((3, H))
    how, most = (PAPER, 5.0) if jacobian else (LEROBOT, 10.0)
    ours = qgf_ref.sample(
        gaussian(covariance, weights, T), y, estimator=how, weight=1.0, noise=x.copy()
    )
    for k in range(T):
        t = k / T
        spread = (1 - t) ** 2 * np.eye(H) + t**2 * covariance
        A = (t * covariance - (1 - t) * np.eye(H)) @ np.linalg.inv(spread)
        v = x @ A.T
        error = (y - (x + (1 - t) * v)) * weights
        correction = error @ (np.eye(H) + (1 - t) * A) if jacobian else error
        with np.errstate(divide="ignore"):
            inverse = ((1 - t) ** 2 + t**2) / (1 - t) ** 2
            factor = min(np.nan_to_num(np.divide(1 - t, t), posinf=most) * inverse, most)
        x = x + (v + factor * correction) / T
    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-12)


def test_of_independent_actions_the_papers_is_exact_and_the_other_too_large() -> None:
    """Of a ~ N(0, I) given its prefix y, v = (y − x)/(1 − t) there; without J, by 1/J₀ more."""
    weights = prefix_weights(D_KNOWN, D_KNOWN, H, "zeros")
    flow, rng = gaussian(np.eye(H), weights, 10), np.random.default_rng(1)
    y, x = rng.standard_normal((4, H)), rng.standard_normal((4, H))
    first = slice(0, D_KNOWN)
    for k in range(1, 10):
        t, step = k / 10, qgf_ref.denoising_step(flow, y, x, k, 1.0)

        def guided(name: str, step: Any = step) -> Array:
            return qgf_ref.estimator(f"{name}+schedule=rtc,1e9")(flow, step).gradient

        paper, other = guided("qgf_jacobian_unmasked"), guided("qgf")
        exact = (y - x)[:, first] / (1 - t)
        np.testing.assert_allclose((step.velocity + paper)[:, first], exact, rtol=0, atol=1e-12)
        assert not paper[:, D_KNOWN:].any()
        np.testing.assert_allclose(other, paper * (t**2 + (1 - t) ** 2) / t, rtol=1e-11)


def test_the_weights_are_those_of_both_codes() -> None:
    linear = prefix_weights(2, 6, 10, "linear")
    np.testing.assert_allclose(linear, [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    np.testing.assert_allclose(linear[2:6], np.linspace(1, 0, 6)[1:-1])  # as lerobot makes them
    falling = prefix_weights(2, 6, 10)
    np.testing.assert_allclose(falling, linear * np.expm1(linear) / np.expm1(1.0))
    assert prefix_weights(2, 6, 10, "zeros").sum() == 2
    assert prefix_weights(2, 6, 10, "ones").sum() == 6
    assert not prefix_weights(3, 0, 4).any()
    with pytest.raises(InputError, match="unknown decay of the prefix 'step'"):
        prefix_weights(0, 1, 2, "step")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 ≤ end ≤ horizon, got 1, 5, 4"):
        prefix_weights(1, 5, 4)


def test_on_learned_networks_it_is_a_flow_like_any() -> None:
    """Contract of its networks, estimators' products, rows with a y of their own, best of N."""
    ck = small_checkpoint(2, hidden=(7, 6), action_dim=4)
    obs, noise = states(ck, 6)
    y = np.random.default_rng(0).uniform(-1, 1, (6, 4))
    flow, both = prefix_flow(ck.flow, [1.0, 1.0, 0.5, 0.0]), np.concatenate([obs, y], axis=1)
    assert "hvp" in str(check_flow(flow, both))
    run = qgf_ref.trace(flow, both, estimator=PAPER, weight=1.0, noise=noise)
    apart = flow.critic.weights * (y - run.a1_hat)  # type: ignore[attr-defined]
    np.testing.assert_allclose(run.q[:, 0], -0.5 * (apart * (y - run.a1_hat)).sum(2), rtol=1e-12)
    alone = qgf_ref.sample(flow, both[3:4], estimator=PAPER, weight=1.0, noise=noise[3:4])
    np.testing.assert_allclose(run.action[3:4], alone, rtol=0, atol=1e-12)
    best = qgf_ref.sample(flow, both, estimator=LEROBOT, weight=1.0, rng=0, best_of=3)
    one = qgf_ref.sample(flow, both, estimator=LEROBOT, weight=1.0, rng=0)
    assert best.shape == one.shape
    with pytest.raises(InputError, match="has a FieldBesidePrefix and a PrefixCritic: use backend"):
        qgf_ref.sample(flow, both, estimator=PAPER, weight=1.0, rng=0, backend="numba")
    for wrong, says in (
        (np.ones(3), r"one for each of the 4 numbers of an action, \(4,\), got float64 of shape"),
        ([1, 1, -1, 0], "finite and ≥ 0"),
        ([1, 1, np.nan, 0], "finite and ≥ 0"),
    ):
        with pytest.raises(InputError, match=says):
            prefix_flow(ck.flow, wrong)
    with pytest.raises(InputError, match="obs"):
        qgf_ref.sample(flow, obs, estimator=PAPER, weight=1.0, rng=0)


def test_a_wrong_product_of_the_critic_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ck = small_checkpoint(2, hidden=(7, 6))
    both = np.concatenate([states(ck, 4)[0], np.ones((4, 3))], axis=1)
    flow = prefix_flow(ck.flow, np.ones(3))
    monkeypatch.setattr(PrefixCritic, "vjp", lambda self, q_bar, cache: 1.001 * cache)
    with pytest.raises(AssertionError, match="vjp"):
        check_flow(flow, both)


def test_distances_to_the_exact_law() -> None:
    """0 for the exact map; and in the limit the Gaussian guidance reaches the law, RTC does not."""
    law = LAWS["smooth, sd 0.3"]
    gain, spread = law.continued()
    values, vectors = np.linalg.eigh(spread)
    exact = distances(law, vectors * np.sqrt(np.maximum(values, 0)), gain)
    assert max(exact[name] for name in ("prefix", "mean", "w2")) < 1e-6
    assert exact["spread"] == pytest.approx(1, abs=1e-9)
    flow = law.flow(100)
    covariance = distances(law, *affine_map(flow, "qgf_covariance", 1e4))
    paper, other = (distances(law, *affine_map(flow, how, 1.0)) for how in (PAPER, LEROBOT))
    assert covariance["w2"] < 0.1 < other["w2"] < paper["w2"] < 0.5  # .018 with 8 iterations


def test_the_map_is_that_of_samples() -> None:
    """Against draws of another noise: the distance in closed form is of what is sampled."""
    law = ChunkLaw(1.0, 0.5)
    moved, pulled = affine_map(law.flow(5), LEROBOT, 1.0)
    rng = np.random.default_rng(3)
    noise, y = rng.standard_normal((4, 8)), np.zeros((4, 8))
    y[:, :3] = rng.standard_normal((4, 3))
    actions = qgf_ref.sample(law.flow(5), y, estimator=LEROBOT, weight=1.0, noise=noise)
    np.testing.assert_allclose(actions, noise @ moved.T + y[:, :3] @ pulled.T, atol=1e-12)
