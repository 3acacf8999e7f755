"""FLOPs counted on the way: the closed count where there is one, and by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.agents.registry import agent_with
from qgf_ref.bench.counts import count
from qgf_ref.bench.flop_count import chunk_flops, update_flops
from qgf_ref.denoising import GradientSteps
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.ops.time_embedding import DIM
from tests.conftest import small_checkpoint

COUNTED = [n for n in learned_estimator_names() if estimator(n).auxiliary is None]
O, D, WIDE, T = 5, 3, 8, 4


@pytest.mark.parametrize("name", COUNTED)
def test_a_chunk_is_the_nominal_count(name: str) -> None:
    checkpoint = small_checkpoint(dtype="float32", steps=T)
    counts = count(checkpoint, name, 1)
    assert counts is not None
    weight = None if name == "none" else 0.1
    assert chunk_flops(checkpoint, Acting(name, weight)) == counts.nominal.flops


def test_candidates_gradient_steps_and_other_denoising_steps() -> None:
    checkpoint = small_checkpoint(dtype="float32", steps=T)
    for how, given in (
        (Acting(best_of=5), {"best_of": 5}),
        (Acting(gradient_steps=GradientSteps(3, 0.1)), {"gradient_steps": 3}),
        (Acting("qgf", 0.1, denoise_steps=7), {"steps": 7}),
    ):
        counts = count(checkpoint, how.estimator, 1, **given)
        assert counts is not None and chunk_flops(checkpoint, how) == counts.nominal.flops


def of_agent(name: str, **settings: Any) -> Checkpoint:
    agent = agent_with(name, settings)
    params = agent.initial(np.random.default_rng(0), O, D, (WIDE, WIDE), 2)
    return Checkpoint(Options("gelu", "mean", T, 1, False, 0.99, 0.9), params=params, agent=agent)


def forward(inputs: int, outputs: int) -> int:
    """FLOPs of a row through two hidden layers."""
    return 2 * (inputs * WIDE + WIDE * WIDE + WIDE * outputs)


def back(inputs: int, outputs: int) -> int:
    """Of the parameters' cotangents: two products a layer, of the first one alone."""
    return 2 * forward(inputs, outputs) - 2 * inputs * WIDE


def test_samplers_of_other_agents_by_hand() -> None:
    assert chunk_flops(of_agent("fql"), Acting()) == forward(O + D, D)
    assert chunk_flops(of_agent("edp"), Acting()) == T * forward(O + D + DIM, D)
    checkpoint = of_agent("dac", alpha=10.0)
    encoder = checkpoint.params["actor"].encoder
    assert encoder is not None
    features = sum(2 * layer.kernel.size for layer in encoder.layers)
    net = forward(O + D + encoder.out_features, D)
    assert chunk_flops(checkpoint, Acting()) == T * (features + net)


def test_an_update_of_iql_by_hand() -> None:
    """Policy, two critics and their target, value and the value of the next state."""
    policy = forward(O + D + DIM, D) + back(O + D + DIM, D)
    critic = 2 * (forward(O + D, 1) + back(O + D, 1)) + 2 * forward(O + D, 1)
    value = 2 * forward(O, 1) + back(O, 1)
    assert update_flops(of_agent("iql"), 1) == policy + critic + value
    assert update_flops(of_agent("iql"), 256) == 256 * (policy + critic + value)


def test_agents_with_goals_have_batches_of_their_own() -> None:
    stand = SimpleNamespace(agent=agent_with("dqc", {}))
    assert update_flops(stand, 8) is None  # type: ignore[arg-type]
