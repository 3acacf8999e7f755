"""The compiled sampler where networks differ, values are special, and samplers are remembered."""

from __future__ import annotations

import gc
import os
import signal
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.numba import sampler as compiled
from qgf_ref.backends.numba.layout import MEMBER
from qgf_ref.errors import NonFiniteError
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import LayerParams, MLPOptions, MLPParams
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint, states
from tests.helpers.compiled_sampler import (
    FLOAT64,
    both,
    teams_on_small_networks,
    without_layer_norm,
)

ESTIMATORS = ("qgf", "qgf_jacobian", "bptt")


def agree(flow: GuidedFlow, obs: Array, noise: Array, **arguments: Any) -> None:
    for name in ESTIMATORS:
        expected, got = both(flow, obs, estimator=name, weight=0.2, noise=noise, **arguments)
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64, err_msg=name)


@pytest.mark.parametrize("normed", ["both", "policy", "critic"])
def test_policy_and_critic_of_different_kinds(normed: str) -> None:
    policy = small_checkpoint(1, hidden=(9, 5), activation="silu")
    critic = small_checkpoint(2, hidden=(40, 17, 30, 6), activation="tanh")
    v, q = policy.policy, critic.target_critic
    flow = GuidedFlow(
        MLPVelocity(
            v if normed != "critic" else without_layer_norm(v),
            MLPOptions("silu", 1e-2, "two_pass"),
        ),
        MLPCritic(
            q if normed != "policy" else without_layer_norm(q), MLPOptions("tanh", 1e-5, "fast")
        ),
        5,
    )
    agree(flow, *states(policy, 11))


def test_exactly_at_the_bound_the_clip_has_half_a_slope(checkpoint: Checkpoint) -> None:
    """With v = 0 the one-step estimate is a_t itself."""

    def silent(params: MLPParams) -> MLPParams:
        *hidden, last = params.layers
        return MLPParams((*hidden, LayerParams(last.kernel * 0, last.bias * 0)))

    flow = checkpoint.with_params(policy=silent(checkpoint.policy)).flow
    obs, _ = states(checkpoint, 3)
    noise = np.array([[1.0, -1.0, 0.3], [1.0, 2.0, -0.1], [-3.0, 0.0, -1.0]])
    for name in ("qgf_masked", "qgf_jacobian"):
        expected, got = both(flow, obs, estimator=name, weight=0.5, noise=noise, denoise_steps=1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_critic_that_is_not_finite_is_named_as_by_the_reference(
    checkpoint: Checkpoint, bad: float
) -> None:
    *hidden, last = checkpoint.target_critic.layers
    bias = last.bias.copy()
    bias[1] = bad
    broken = MLPParams((*hidden, LayerParams(last.kernel, bias)))
    flow = checkpoint.with_params(target_critic=broken).flow
    obs, noise = states(checkpoint, 4)

    def outcome(**arguments: Any) -> str | Array:
        try:
            return sample(flow, obs, **arguments)
        except NonFiniteError as error:
            return str(error)

    for arguments in (
        {"weight": 0.1, "noise": noise},
        {"estimator": "none", "noise": np.repeat(noise, 2, axis=0), "best_of": 2},
    ):
        expected = outcome(**arguments)
        got = outcome(**arguments, backend="numba")
        if isinstance(expected, str) or isinstance(got, str):
            assert got == expected
        else:  # +∞ never attains the minimum
            np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def test_the_same_parameters_under_other_settings(checkpoint: Checkpoint) -> None:
    """Nothing remembered for one setting is used for another."""
    obs, noise = states(checkpoint, 4)
    flow = checkpoint.flow
    assert isinstance(flow.field, MLPVelocity)
    assert isinstance(flow.critic, MLPCritic)
    relu = MLPOptions("relu")
    half = checkpoint.guided_flow(embedding="float32")
    flows = (
        flow,
        replace(flow, denoise_steps=3),
        replace(flow, action_bound=0.3),
        replace(flow, action_bound=None),
        replace(flow, field=replace(flow.field, options=relu)),
        replace(flow, critic=replace(flow.critic, options=relu)),
        replace(flow, critic=replace(flow.critic, aggregation="mean")),
        half,
        replace(half, denoise_steps=7),
    )
    for each in flows:
        agree(each, obs, noise)
    agree(flow, obs, noise)


def test_samplers_of_networks_that_are_gone_are_forgotten() -> None:
    gc.collect()
    before = len(compiled.compiled_sampler.samplers), len(compiled.compiled_sampler.networks)
    obs, noise = states(small_checkpoint(), 2)
    for seed in range(3):
        sample(small_checkpoint(seed).flow, obs, weight=0.1, noise=noise, backend="numba")
    gc.collect()
    assert (
        len(compiled.compiled_sampler.samplers),
        len(compiled.compiled_sampler.networks),
    ) <= before


def test_what_the_clip_would_hide_is_noticed(checkpoint: Checkpoint) -> None:
    """An infinite velocity at the last step would end as a clipped, finite action."""
    *hidden, last = checkpoint.policy.layers
    huge = MLPParams((*hidden, LayerParams(last.kernel, last.bias + 1e308)))
    flow = checkpoint.with_params(policy=huge.map(np.copy)).flow
    obs, noise = states(checkpoint, 3)
    field = flow.field
    assert isinstance(field, MLPVelocity)
    assert np.isfinite(field.params.layers[-1].bias).all()
    for steps in (1, 2):
        arguments: dict[str, Any] = {"noise": noise * 1e308, "denoise_steps": steps}
        with pytest.raises(NonFiniteError) as reference:
            sample(flow, obs, estimator="none", **arguments)
        with pytest.raises(NonFiniteError) as got:
            sample(flow, obs, estimator="none", backend="numba", **arguments)
        assert str(got.value) == str(reference.value)


class Slowed(MLPVelocity):
    """A user's field: half the velocity."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> Any:
        v, cache = super().forward(obs, action, time)
        return v / 2, cache


def test_a_subclass_does_what_it_says(checkpoint: Checkpoint) -> None:
    flow = checkpoint.flow
    assert isinstance(flow.field, MLPVelocity)
    slowed = Slowed(flow.field.params, flow.field.options)
    obs, noise = states(checkpoint, 3)
    expected, got = both(replace(flow, field=slowed), obs, weight=0.1, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
    assert abs(got - sample(flow, obs, weight=0.1, noise=noise)).max() > 0.01


@dataclass(frozen=True)
class InPlace(Estimator):
    """Writes into what the networks gave it, which a recording would not see."""

    name = "in_place"
    summary = "2∇Q(s, a_t)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        found = critic_gradient(flow, step.obs, step.action)
        found.gradient[...] *= 2
        return found


class Unhashable(InPlace):
    """Equal to others, so that it needs a hash and has none."""

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("guide", [InPlace(), Unhashable()])
def test_what_a_recording_would_miss_runs_layer_by_layer(
    checkpoint: Checkpoint, guide: Estimator
) -> None:
    obs, noise = states(checkpoint, 3)
    expected, got = both(checkpoint.flow, obs, estimator=guide, weight=0.1, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def test_a_member_that_fails_does_not_leave_the_others_waiting(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C in one of them."""
    teams_on_small_networks(monkeypatch)
    obs, noise = states(checkpoint, 5)

    def run() -> Array:
        return sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="numba", threads=3)

    expected = run()
    run_block = compiled.run_block
    for failing in (0, 1, 2):

        def interrupted(*arguments: Any, failing: int = failing) -> None:
            _, _, at, *_ = arguments
            if at[MEMBER] == failing:
                raise KeyboardInterrupt
            run_block(*arguments)

        monkeypatch.setattr(compiled, "run_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
        monkeypatch.setattr(compiled, "run_block", run_block)
        np.testing.assert_array_equal(run(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(checkpoint: Checkpoint) -> None:
    obs, noise = states(checkpoint, 64)

    def run() -> Array:
        return sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="numba", threads=2)

    expected = run()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a hang ends in a signal, which the parent sees
        os._exit(0 if np.array_equal(run(), expected) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
