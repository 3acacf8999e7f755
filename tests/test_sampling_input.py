"""What the sampler refuses: bad arguments, bad observations, numbers that are not finite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref import GradientSteps, InputError, NonFiniteError, sample, trace
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from tests.conftest import small_checkpoint, states


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

    def hvp(self, action_dot: Array, q_bar: Array, cache: None) -> Array:
        return np.full_like(action_dot, self.slope)


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
