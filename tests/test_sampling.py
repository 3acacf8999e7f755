"""The sampler: golden traces and actions, best-of-N, gradient steps, seeds, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import verify
from qgf_ref import GradientSteps, InputError, NonFiniteError, sample, trace
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.counting import counted
from tests.conftest import Golden, small_checkpoint, states

EXACT_EMBEDDING = {"tiny": 2e-5, "chunked": 2e-5, "pinned_jax": 2e-5, "relu_mean": 5e-5}
"""Measured 5e-6 for T = 10. relu_mean has T = 7, whose official float32 embedding is off by up to
4e-4 (official.md): measured 2.8e-5, above the 2e-5 that T = 10 meets."""


def test_golden_traces(golden: Golden) -> None:
    """Every quantity of every step of all six methods, and GradStep, in float64.

    Target 1e-9, measured 4e-14.
    """
    assert verify.golden_traces(golden.name) < 5e-13


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("embedding", ["exact", "float32"])
def test_official_actions(golden_official: Golden, dtype: str, embedding: Any) -> None:
    """The official float32 actions: ood, qgf, qgf_jacobian, GradStep and QGF+BFN-4.

    Target 2e-6 with float32 embeddings, measured ≤ 4.6e-7.
    """
    name = golden_official.name
    tolerance = 2e-6 if embedding == "float32" else EXACT_EMBEDDING[name]
    assert verify.official_actions(name, embedding, dtype) < tolerance


def test_trace_ends_in_the_sample(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 4)
    for name in ("none", "qgf", "bptt"):
        run = trace(checkpoint.flow, obs, estimator=name, weight=0.3, noise=noise)
        action = sample(checkpoint.flow, obs, estimator=name, weight=0.3, noise=noise)
        np.testing.assert_array_equal(run.action, action)
        assert run.a.shape == run.v.shape == run.g.shape == run.a1_hat.shape == (6, 4, 3)
        assert run.q.shape == (6, 2, 4)
        last = run.a[-1] + (run.v[-1] + 0.3 * run.g[-1]) / 6
        np.testing.assert_allclose(np.clip(last, -1, 1), action, rtol=0, atol=1e-15)


def test_the_same_seed_gives_the_same_bits(checkpoint: Any) -> None:
    obs, _ = states(checkpoint, 4)
    first = sample(checkpoint.flow, obs, weight=0.2, rng=7, best_of=3)
    np.testing.assert_array_equal(first, sample(checkpoint.flow, obs, weight=0.2, rng=7, best_of=3))
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(
        first, sample(checkpoint.flow, obs, weight=0.2, rng=rng, best_of=3)
    )
    assert abs(first - sample(checkpoint.flow, obs, weight=0.2, rng=8, best_of=3)).max() > 0


@pytest.mark.parametrize("name", ["none", "qgf", "qgf_jacobian", "bptt", "qgf_jacobian_smooth"])
def test_a_row_of_a_batch_equals_the_batch_of_one(checkpoint: Any, name: str) -> None:
    """To BLAS's order of summation: measured 1e-14 after six steps."""
    obs, noise = states(checkpoint, 8)
    whole = sample(checkpoint.flow, obs, estimator=name, weight=0.3, noise=noise)
    for i in range(8):
        one = sample(
            checkpoint.flow, obs[i : i + 1], estimator=name, weight=0.3, noise=noise[i : i + 1]
        )
        np.testing.assert_allclose(one[0], whole[i], rtol=0, atol=1e-12)
    single = sample(checkpoint.flow, obs[2], estimator=name, weight=0.3, noise=noise[2:3])
    assert single.shape == (3,)


def test_weights_per_row(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 3)
    weights = np.array([0.0, 0.3, 1.0])
    rows = sample(checkpoint.flow, obs, weight=weights, noise=noise)
    for i, w in enumerate(weights):
        all_w = sample(checkpoint.flow, obs, weight=float(w), noise=noise)
        np.testing.assert_array_equal(rows[i], all_w[i])
    doubled = np.repeat(noise, 2, axis=0)
    best = sample(checkpoint.flow, obs, weight=weights, noise=doubled, best_of=2)
    np.testing.assert_allclose(best, rows, atol=1e-13)


def test_best_of_keeps_the_highest_critic_and_the_first_among_equals(checkpoint: Any) -> None:
    obs, _ = states(checkpoint, 3)
    noise = np.random.default_rng(0).standard_normal((12, 3))
    candidates = sample(checkpoint.flow, np.repeat(obs, 4, axis=0), noise=noise, weight=0.1)
    q = checkpoint.flow.critic.forward(np.repeat(obs, 4, axis=0), candidates)[0].min(axis=0)
    chosen = q.reshape(3, 4).argmax(axis=1)
    best = sample(checkpoint.flow, obs, noise=noise, weight=0.1, best_of=4)
    np.testing.assert_array_equal(best, candidates.reshape(3, 4, 3)[np.arange(3), chosen])

    class Indifferent:
        aggregation = "min"

        def forward(self, obs: Array, action: Array) -> tuple[Array, None]:
            return np.zeros((2, len(action))), None

        def jvp(self, action_dot: Array, cache: None) -> Array:
            return np.zeros((2, len(action_dot)))

        def vjp(self, q_bar: Array, cache: None) -> Array:
            return np.zeros((q_bar.shape[1], 3))

    flow = replace(checkpoint.flow, critic=Indifferent())
    best = sample(flow, obs, noise=noise, estimator="none", best_of=4)
    np.testing.assert_array_equal(best, candidates_without_guidance(flow, obs, noise)[:, 0])


def candidates_without_guidance(flow: GuidedFlow, obs: Array, noise: Array) -> Array:
    repeated = np.repeat(obs, 4, axis=0)
    return sample(flow, repeated, noise=noise, estimator="none").reshape(3, 4, 3)


def test_gradient_steps_climb_the_critic(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 32)

    def q(steps: int) -> float:
        how = GradientSteps(steps, 0.02)
        a = sample(checkpoint.flow, obs, noise=noise, estimator="none", gradient_steps=how)
        assert abs(a).max() <= 1
        return float(checkpoint.flow.critic.forward(obs, a)[0].min(axis=0).mean())

    assert q(0) < q(1) < q(5)
    with pytest.raises(InputError, match="gradient steps"):
        GradientSteps(-1)


def test_only_one_field_forward_for_each_step(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 2)
    flow, counter = counted(checkpoint.flow)
    sample(flow, obs, noise=noise, estimator="qgf_jacobian", weight=0.1)
    assert counter.take().astuple() == (6, 0, 6, 6, 0, 6)
    sample(flow, obs, noise=noise, estimator="none")
    assert counter.take().astuple() == (6, 0, 0, 0, 0, 0)


def test_steps_can_be_overridden(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 2)
    assert trace(checkpoint.flow, obs, noise=noise, weight=0.1, denoise_steps=3).a.shape[0] == 3
    one = sample(checkpoint.flow, obs, noise=noise, denoise_steps=1, estimator="none")
    v = checkpoint.flow.field.forward(obs, noise, 0.0)[0]
    np.testing.assert_array_equal(one, np.clip(noise + v, -1, 1))


def explode_at_step_3(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return np.full(step.action.shape, np.nan if step.index == 3 else 0.0)


def test_non_finite_values_name_step_and_quantity(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 2)
    with pytest.raises(
        NonFiniteError, match=r"gradient G of .*explode_at_step_3 at denoising step 3 .*nan"
    ):
        guide = f"{__name__}:explode_at_step_3"
        sample(checkpoint.flow, obs, noise=noise, weight=0.1, estimator=guide)
    with pytest.raises(NonFiniteError, match="velocity v at denoising step 1 "):
        sample(checkpoint.flow, obs, noise=noise, estimator="ood", weight=1e307)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": np.zeros((3, 3))}, "noise must have 2 rows"),
        ({"noise": np.zeros((2, 4))}, r"noise must have shape \(rows, 3\), got \(2, 4\)"),
        ({"noise": np.full((2, 3), np.inf)}, "noise must be finite"),
        ({}, "either noise"),
        ({"noise": np.zeros((2, 3)), "rng": 0}, "either noise"),
        ({"rng": 0, "weight": np.ones(3)}, r"shape \(2,\), got float64 of shape \(3,\)"),
        ({"rng": 0, "weight": float("nan")}, "weight must be a finite number"),
        ({"rng": 0, "weight": "0.1"}, "weight must be a finite number"),
        ({"rng": 0, "best_of": 0}, "best_of"),
        ({"rng": 0, "best_of": 1.5}, "best_of"),
        ({"rng": 0, "estimator": "nope"}, "unknown estimator 'nope'"),
        ({"rng": 0}, r"the estimator qgf needs a guidance weight: give weight=…"),
        ({"rng": 0, "denoise_steps": 0}, "denoise_steps must be from 1"),
    ],
)
def test_bad_arguments(checkpoint: Any, arguments: dict[str, Any], message: str) -> None:
    obs, _ = states(checkpoint, 2)
    with pytest.raises(InputError, match=message):
        sample(checkpoint.flow, obs, **arguments)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((2, 4)), r"obs must have shape \(rows, 5\), got \(2, 4\)"),
        (np.zeros((2, 5, 1)), "obs must have shape"),
        (np.full((2, 5), np.nan), "obs must be finite: 10 of 10 values are not"),
        (np.array([["a"] * 5]), "obs must be an array of real numbers, got dtype <U1"),
    ],
)
def test_bad_observations(checkpoint: Any, obs: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(checkpoint.flow, obs, rng=0)


def huge_at_step_3(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return np.full(step.action.shape, 1e308 if step.index == 3 else 0.0)


def huge_at_the_end(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return np.full(step.action.shape, 1e308 if step.index == 5 else 0.0)


def test_overflow_names_the_first_step_that_sees_it(checkpoint: Any) -> None:
    obs, noise = states(checkpoint, 2)
    for guide, message in (
        (huge_at_step_3, "action a_t at denoising step 4 "),
        (huge_at_the_end, "action a_1 at denoising step 6 "),
    ):
        with pytest.raises(NonFiniteError, match=message):
            sample(checkpoint.flow, obs, noise=noise, estimator=guide, weight=100.0)


class BadCritic:
    """Finite values and a NaN gradient, or the other way round."""

    aggregation = "min"

    def __init__(self, value: float, slope: float) -> None:
        self.value, self.slope = value, slope

    def forward(self, obs: Array, action: Array) -> tuple[Array, None]:
        return np.full((2, len(action)), self.value), None

    def jvp(self, action_dot: Array, cache: None) -> Array:
        return np.full((2, len(action_dot)), self.slope)

    def vjp(self, q_bar: Array, cache: None) -> Array:
        return np.full((q_bar.shape[1], 3), self.slope)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_critics_are_noticed_everywhere(checkpoint: Any, bad: float) -> None:
    obs, noise = states(checkpoint, 2)
    steep = replace(checkpoint.flow, critic=BadCritic(0.0, bad))
    with pytest.raises(NonFiniteError, match="∇Q of gradient step 0"):
        sample(steep, obs, noise=noise, estimator="none", gradient_steps=GradientSteps(2))
    unknown = replace(checkpoint.flow, critic=BadCritic(bad, 0.0))
    with pytest.raises(NonFiniteError, match="critic of a candidate"):
        sample(unknown, obs, rng=0, estimator="none", best_of=2)
    with pytest.raises(NonFiniteError, match="critic at the query point at denoising step 0"):
        trace(unknown, obs, noise=noise, estimator="none")


def test_gradient_steps_and_best_of_together(checkpoint: Any) -> None:
    """Every candidate climbs, then the best is kept."""
    obs, _ = states(checkpoint, 2)
    noise = np.random.default_rng(0).standard_normal((6, 3))
    how = GradientSteps(3, 0.05)
    flow = checkpoint.flow
    repeated = np.repeat(obs, 3, axis=0)
    climbed = sample(flow, repeated, noise=noise, estimator="none", gradient_steps=how)
    q = flow.critic.forward(repeated, climbed)[0].min(axis=0).reshape(2, 3)
    expected = climbed.reshape(2, 3, 3)[np.arange(2), q.argmax(axis=1)]
    best = sample(flow, obs, noise=noise, estimator="none", gradient_steps=how, best_of=3)
    np.testing.assert_array_equal(best, expected)


def test_noise_is_drawn_in_float64_whatever_the_flow() -> None:
    single = small_checkpoint(dtype="float32")
    obs, _ = states(single, 3)
    drawn = np.random.default_rng(5).standard_normal((3, 3))
    from_seed = sample(single.flow, obs, rng=5, weight=np.full(3, 0.2))
    assert from_seed.dtype == np.float32
    np.testing.assert_array_equal(from_seed, sample(single.flow, obs, noise=drawn, weight=0.2))
    run = trace(single.flow, obs, rng=5, weight=np.full(3, 0.2))
    assert {a.dtype.name for a in run.arrays().values()} == {"float32"}
    climbed = sample(
        single.flow, obs, rng=5, weight=0.1, gradient_steps=GradientSteps(1, float(np.float64(0.1)))
    )
    assert climbed.dtype == np.float32


def test_no_rows(checkpoint: Any) -> None:
    obs = np.zeros((0, 5))
    how: dict[str, Any] = {"rng": 0, "weight": 0.1, "gradient_steps": GradientSteps(1)}
    for best_of in (1, 3):
        assert sample(checkpoint.flow, obs, best_of=best_of, **how).shape == (0, 3)
    assert trace(checkpoint.flow, obs, rng=0, weight=0.1).q.shape == (6, 2, 0)


def test_numpy_scalars_are_numbers(checkpoint: Any) -> None:
    obs, _ = states(checkpoint, 2)
    a = sample(checkpoint.flow, obs, rng=np.int64(1), best_of=np.int64(2), weight=np.float32(0.5),
               denoise_steps=np.int32(3), gradient_steps=GradientSteps(np.int64(1)))  # fmt: skip
    b = sample(checkpoint.flow, obs, rng=1, best_of=2, weight=0.5, denoise_steps=3,
               gradient_steps=GradientSteps(1))  # fmt: skip
    np.testing.assert_array_equal(a, b)


def test_more_bad_arguments(checkpoint: Any) -> None:
    obs, _ = states(checkpoint, 2)
    flow = checkpoint.flow
    for bad, message in (
        (lambda: sample(checkpoint, obs, rng=0), r"pass checkpoint\.flow"),
        (lambda: sample(flow, obs, rng=-1), "seed ≥ 0"),
        (lambda: sample(flow, obs, rng="a"), "seed ≥ 0"),  # type: ignore[arg-type]
        (lambda: sample(flow, obs, rng=0, weight=-0.1), "≥ 0"),
        (lambda: sample(flow, obs, rng=0, weight=[[1], [1, 2]]), "unequal"),  # type: ignore[arg-type]
        (lambda: sample(flow, obs + 1j, rng=0), "real numbers, got dtype complex128"),
        (lambda: sample(flow, [[1.0], [1.0, 2.0]], rng=0), "differ in length"),  # type: ignore[arg-type]
        (lambda: sample(flow, obs, rng=0, gradient_steps=3), "GradientSteps"),  # type: ignore[arg-type]
        (lambda: GradientSteps(1.5), "gradient steps"),  # type: ignore[arg-type]
        (lambda: GradientSteps(size=float("nan")), "finite"),
        (lambda: GradientSteps(size="a"), "finite"),  # type: ignore[arg-type]
        (
            lambda: sample(small_checkpoint(dtype="float32").flow, obs + 1e300, rng=0),
            "obs in float32 must be finite",
        ),
    ):
        with pytest.raises(InputError, match=message):
            bad()
