"""A flow of one checkpoint with the critic of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref import Checkpoint, InputError
from qgf_ref.agents.agent import Acting
from qgf_ref.agents.registry import agent_with
from qgf_ref.bench.counts import count
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.sampler.probes import loud
from tests.conftest import small_checkpoint, states


def of_agent(name: str, **settings: object) -> Checkpoint:
    ck, agent = small_checkpoint(), agent_with(name, settings)
    rng = np.random.default_rng(4)
    params = agent.initial(rng, ck.obs_dim, ck.flat_action_dim, (7, 6), 2)
    params = {n: p.map(lambda a: a + rng.normal(0, 0.2, a.shape)) for n, p in params.items()}
    return Checkpoint(ck.options, params=params, agent=agent, source=name).astype("float64")


def test_the_bootstrapped_critic_guides_the_papers_flow(tmp_path: Path) -> None:
    ours, qam = small_checkpoint(), of_agent("qam", critic_loss_type="ddpg")
    both = qgf_ref.load(policy=ours, critic=qam)
    assert both.agent.name == "iql" and both.absent == ("value",)
    assert both.policy is not qam.params["actor_fast"]
    obs, noise = states(ours, 5)
    by_hand = replace(ours.flow, critic=qam.network("target_critic"))
    for method in ("qgf", "bptt"):
        np.testing.assert_array_equal(
            qgf_ref.sample(both.flow, obs, noise=noise, estimator=method, weight=0.5),
            qgf_ref.sample(by_hand, obs, noise=noise, estimator=method, weight=0.5),
        )
    qgf_ref.save_checkpoint(both, tmp_path / "both.safetensors")
    again = qgf_ref.load(tmp_path / "both.safetensors")
    np.testing.assert_array_equal(
        qgf_ref.sample(again.flow, obs, noise=noise, weight=0.5),
        qgf_ref.sample(both.flow, obs, noise=noise, weight=0.5),
    )


def test_a_flow_of_raw_time_takes_another_critic() -> None:
    """QAM's, guided by the paper's agent's critic; in the compiled sampler, too."""
    ours, qam = small_checkpoint(), of_agent("qam")
    both = qgf_ref.load(policy=qam, critic=ours)
    obs, noise = states(ours, 5)
    by_hand = replace(qam.flow, critic=ours.flow.critic)
    expected = qgf_ref.sample(by_hand, obs, noise=noise, weight=0.5)
    np.testing.assert_array_equal(both.agent.act(both, obs, noise, Acting("qgf", 0.5)), expected)
    compiled = qgf_ref.sample(both.flow, obs, noise=noise, weight=0.5, backend="numba")
    np.testing.assert_allclose(compiled, expected, rtol=0, atol=1e-13)


def test_what_does_not_fit_is_said() -> None:
    ours = small_checkpoint()
    cases = (
        (of_agent("fql"), ours, "the agent fql has no flow to guide"),
        (ours, small_checkpoint(obs_dim=9), "obs_dim 5, but the critic's memory 9"),
        (
            ours,
            small_checkpoint(activation="relu"),
            "activation gelu, but the critic's memory relu",
        ),
    )
    for policy, critic, message in cases:
        with pytest.raises(InputError, match=message):
            qgf_ref.load(policy=policy, critic=critic)
    with pytest.raises(InputError, match="give path or policy, not both"):
        qgf_ref.load("x", policy=ours, critic=ours)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, qam = small_checkpoint(), of_agent("qam")
    paths = [tmp_path / "ours.safetensors", tmp_path / "qam.safetensors"]
    for checkpoint, path in zip((ours, qam), paths, strict=True):
        qgf_ref.save_checkpoint(checkpoint, path)
    obs, noise = states(ours, 3)
    np.savez(tmp_path / "in.npz", obs=obs, noise=noise)
    words = ["trace", "--checkpoint", str(paths[0]), "--critic", str(paths[1]), "--input"]
    words += [str(tmp_path / "in.npz"), "--weight", "0.3", "--out", str(tmp_path / "out.npz")]
    assert main(words) == 0, capsys.readouterr().err
    expected = qgf_ref.sample(
        replace(ours.flow, critic=qam.network("target_critic")), obs, noise=noise, weight=0.3
    )
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_allclose(arrays["action"], expected, atol=1e-12)


def test_explain_follows_any_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "qam.safetensors"
    qgf_ref.save_checkpoint(of_agent("qam"), path)
    assert main(["explain", "--checkpoint", str(path), "--obs", "normal"]) == 0
    printed = capsys.readouterr().out
    assert "policy 0" in printed and "re-derived from the ledger alone: the same bits" in printed


def test_what_asks_for_a_policy_takes_the_flow_of_any_agent() -> None:
    """bench's counts, and the networks on which check_sampler lets quiet mistakes speak up."""
    ck = of_agent("qam")
    counted = count(ck, "qgf", 4)
    assert counted is not None and counted.necessary.flops > 0
    for name, varied in loud(ck, 0).items():
        flow = varied.params["actor_fast"]
        moved = [a.any() for a in flow.map(lambda a, b: a - b, ck.params["actor_fast"]).arrays()]
        assert any(moved), name
