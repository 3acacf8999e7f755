"""Checkpoints by parts: what must be there, what may be absent, and who says so."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import Checkpoint, InputError
from qgf_ref.agents.iql import IQL, PARTS
from qgf_ref.agents.options import Options
from qgf_ref.audit.run import audit
from qgf_ref.guidance.registry import estimator
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS
from tests.conftest import small_checkpoint, states


def sampling_only(ck: Checkpoint) -> Checkpoint:
    """Policy and target critic alone, and the sampler's options."""
    options = Options(*(getattr(ck.options, name) for name in qgf_names()))
    return Checkpoint(options, ck.policy, target_critic=ck.target_critic)


def qgf_names() -> tuple[str, ...]:
    return "activation", "q_aggregation", "denoise_steps", "horizon_length", "action_chunking"


def test_parts_are_the_named_networks() -> None:
    ck = small_checkpoint()
    assert tuple(ck.params) == tuple(part.name for part in PARTS) == IQL.part_names
    assert all(ck.params[name] is getattr(ck, name) for name in ck.params)
    assert Checkpoint(ck.options, params=ck.params).params == ck.params
    by_position = Checkpoint(ck.options, ck.policy, ck.critic, ck.target_critic, ck.value)
    assert by_position.params == ck.params


def test_replacing_a_part() -> None:
    ck = small_checkpoint()
    other = ck.policy.map(lambda a: 2 * a)
    by_keyword: dict[str, Any] = {"policy": other}
    for changed in (ck.with_params(policy=other), replace(ck, **by_keyword)):
        assert changed.policy is other
        assert changed.value is ck.value


def test_what_the_agent_needs_to_act_is_enough_to_sample() -> None:
    ck = small_checkpoint()
    bare = sampling_only(ck)
    assert (bare.obs_dim, bare.flat_action_dim) == (ck.obs_dim, ck.flat_action_dim)
    obs, noise = states(ck, 4)
    for given in (bare, pickle.loads(pickle.dumps(bare))):  # noqa: S301
        actions = qgf_ref.sample(given.flow, obs, noise=noise, weight=0.3)
        np.testing.assert_array_equal(
            actions, qgf_ref.sample(ck.flow, obs, noise=noise, weight=0.3)
        )
    with pytest.raises(InputError, match="memory has no critic; it has: policy, target_critic"):
        bare.networks()
    with pytest.raises(InputError, match=r"memory does not say: discount.*--discount"):
        bare.hyperparameters()
    assert bare.astype("float32").describe()["ensemble"] == 2
    assert "expectile" not in bare.describe()


def test_a_part_that_acts_is_required() -> None:
    ck = small_checkpoint()
    with pytest.raises(InputError, match="has no target critic; it has: policy, critic, value"):
        Checkpoint(ck.options, ck.policy, ck.critic, value=ck.value)
    with pytest.raises(InputError, match=r"unknown network of the agent iql 'actor'.*policy"):
        ck.with_params(actor=ck.policy)


@pytest.mark.parametrize("name", ["critic", "target_critic"])
def test_widths_are_checked_without_a_value(name: str) -> None:
    bare = sampling_only(small_checkpoint())
    wide = small_checkpoint(obs_dim=9).target_critic
    with pytest.raises(
        InputError, match=rf"the policy's first layer.*observations of 9 \({name}\)"
    ):
        bare.with_params(**{name: wide})


def test_one_line_says_what_it_is() -> None:
    text = repr(qgf_ref.load(dtype="float32"))
    assert "\n" not in text
    for said in ("iql", "192×192×192", "T=10", "float32"):
        assert said in text


def test_what_a_notebook_shows_is_one_line() -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 4)
    traced = qgf_ref.trace(ck.flow, obs, noise=noise, weight=0.3)
    for shown, said in (
        (ck.critic, "MLPParams(8×11×10×9×1, 2 members, "),
        (ck.flow, "GuidedFlow(MLPVelocity, MLPCritic, D=3, T=6 (exact times), bound 1)"),
        (traced, "Trace(4 rows, T=6, D=3, 2 critics, float64)"),
    ):
        assert said in repr(shown)
        assert len(repr(shown)) < 100


def test_an_audit_checks_what_there_is() -> None:
    """Derivatives do not depend on γ and τ, and the sampler's networks are enough."""
    ck = small_checkpoint()
    whole, bare = (
        audit(c, states(ck, 4)[0], [estimator("qgf")], show_progress=False)
        for c in (replace(ck, auxiliary=NO_AUXILIARY_PARAMS), sampling_only(ck))
    )
    assert bare.passed
    left_out = {c.name for c in whole.checks} - {c.name for c in bare.checks}
    assert {name.split()[0] for name in left_out} == {"critic", "value"}
    assert bare.checkpoint["absent"] == ["critic", "value"]
    assert "absent" not in whole.checkpoint


def test_time_precision_is_decided_once() -> None:
    double, single = small_checkpoint(), small_checkpoint(dtype="float32")
    assert double.time_precision("acting") == "exact"
    assert single.time_precision("acting") == "float32"
    for ck in (double, single):
        assert ck.time_precision("reference") == ck.flow.time_precision == "exact"
        assert ck.time_precision("training") == "float32"
