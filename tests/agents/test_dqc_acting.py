"""DQC guided, ranked, and read from files, against official samples and float64 traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import ONLINE, TARGET
from qgf_ref.agents.step import losses
from qgf_ref.checks import check_adjoint, check_jvp
from qgf_ref.cli.main import main
from qgf_ref.nets.probability import ProbabilityCritic
from qgf_ref.ops.logits import probability
from tests.helpers.dqc_golden import Case, golden_like


@pytest.mark.parametrize("methods", ["qgf", pytest.param("every", marks=pytest.mark.slow)])
def test_traces(case: Case, methods: str) -> None:
    """Either flow, guided by either copy, its logits or its probabilities."""
    traces, official = case.arrays("trace_float64"), case.arrays("official_float32")
    obs = np.concatenate([official["observations"], official["goals"]], axis=1).astype(float)
    noise, seen = official["noise"].astype(float), 0
    traces = {k: a for k, a in traces.items() if methods == "every" or f"/{methods}/" in k}
    for run in sorted({key.rpartition("/")[0] for key in traces}):
        policy, critic, output, method, *weight = run.split("/")
        ck = case.checkpoint(
            policy_goals=True, policy_network={"gcfbc": "dqc"}.get(policy, policy),
            guide_critic="target" if critic == TARGET else "online", guide_output=output,
        )  # fmt: skip
        how: Any = {"weight": float(weight[0][1:])} if weight else {}
        method = {"bc": "none"}.get(method, method)
        found = qgf_ref.trace(ck.flow, obs, estimator=method, noise=noise, **how)
        for name in ("a", "v", "a1_hat", "q", "g", "action"):
            if f"{run}/{name}" in traces:
                expected = traces[f"{run}/{name}"]
                # measured 5e-14
                assert abs(getattr(found, name) - expected).max() < 1e-12, (run, name)
                seen += 1
    assert seen == len(traces) > 0


def test_best_of_n_of_dqcs_own_policy(case: Case) -> None:
    """Candidates without goals, ranked by the online logits, reduced as logits (T8)."""
    z = case.arrays("official_float32")
    ck, noise = case.checkpoint("float32"), z["bfn/noise"]
    obs = np.concatenate([z["observations"], z["goals"]], axis=1)
    rows = noise.transpose(1, 0, 2).reshape(-1, ck.flat_action_dim)
    action = ck.agent.act(ck, obs, rows, Acting(best_of=len(noise)))
    assert np.abs(action - z["bfn/action"]).max() < 5e-6
    flow = case.checkpoint("float32", policy_goals=True, policy_network="dqc").flow
    unguided = qgf_ref.sample(flow, obs, estimator="none", noise=z["gcfbc/noise"])
    assert np.abs(unguided - z["gcfbc/action"]).max() < 5e-6


def test_probabilities(case: Case) -> None:
    """Guidance by probabilities is the logits' times q(1 − q), row by row under min."""
    ck, z = case.checkpoint(agg="min"), case.arrays("official_float32")
    obs = np.concatenate([z["observations"], z["goals"]], axis=1).astype(float)
    x = z["probe_action"].astype(float)
    logits = ck.flow.critic
    critic = case.checkpoint(agg="min", guide_output="probability").flow.critic
    assert isinstance(critic, ProbabilityCritic)
    check_jvp(
        lambda a: critic.forward(obs, a)[0],
        lambda a, a_dot: critic.jvp(a_dot, critic.forward(obs, a)[1]), x, tolerance=1e-12,
    )  # fmt: skip
    q_bar = np.random.default_rng(0).standard_normal(critic.forward(obs, x)[0].shape)
    check_adjoint(
        lambda a: critic.forward(obs, a)[0],
        lambda a, a_dot: critic.jvp(a_dot, critic.forward(obs, a)[1]),
        lambda a, bar: critic.vjp(bar, critic.forward(obs, a)[1]), x,
    )  # fmt: skip
    check_jvp(
        lambda a: critic.vjp(q_bar, critic.forward(obs, a)[1]),
        lambda a, a_dot: critic.hvp(a_dot, q_bar, critic.forward(obs, a)[1]), x, tolerance=1e-12,
    )  # fmt: skip
    still = np.zeros_like(x)  # the same products along observations
    check_jvp(
        lambda s: critic.forward(s, x)[0],
        lambda s, s_dot: critic.jvp_inputs(s_dot, still, critic.forward(s, x)[1]), obs,
        tolerance=1e-12,
    )  # fmt: skip
    check_adjoint(
        lambda s: critic.forward(s, x)[0],
        lambda s, s_dot: critic.jvp_inputs(s_dot, still, critic.forward(s, x)[1]),
        lambda s, bar: critic.vjp_inputs(bar, critic.forward(s, x)[1])[0], obs,
    )  # fmt: skip
    for i in (0, 1):
        check_jvp(
            lambda s, i=i: critic.vjp_inputs(q_bar, critic.forward(s, x)[1])[i],
            lambda s, s_dot, i=i: critic.hvp_inputs(
                s_dot, still, q_bar, critic.forward(s, x)[1]
            )[i],
            obs, tolerance=1e-12,
        )  # fmt: skip
    lowest, cache = logits.forward(obs, x)
    first = (lowest == lowest.min(axis=0)).astype(float)
    slope = probability(lowest.min(axis=0))[1]
    ours = critic.vjp(first, critic.forward(obs, x)[1])
    np.testing.assert_allclose(ours, slope[:, None] * logits.vjp(first, cache), rtol=1e-12)


def test_official_checkpoints(case: Case, tmp_path: Path, capsys: Any) -> None:
    """Read with their flags, converted, read again, traced from the command line."""
    c, source = case.config, tmp_path / "params_0.pkl"
    source.write_bytes((case.path / source.name).read_bytes())
    names = {
        "q_agg", "flow_steps", "discount", "kappa_b", "kappa_d", "distill_method",
        "implicit_backup_type", "use_chunk_critic", "backup_horizon", "policy_chunk_size",
    }  # fmt: skip
    flags = {"agent": {"agent_name": "dqc", **{name: c[name] for name in names}}}
    source.with_name("flags.json").write_text(json.dumps(flags))
    ck, ours = qgf_ref.load(source), case.checkpoint()
    assert ck.agent.stated == ours.agent.stated and ck.options == ours.options
    copy = tmp_path / "copy.safetensors"
    assert main(["convert", str(source), str(copy)]) == 0
    for again in (ck, qgf_ref.load(copy)):
        assert again.agent.stated == ours.agent.stated
        for name in ours.params:
            pairs = zip(again.params[name].arrays(), ours.params[name].arrays(), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), name
    # QGF's flow of [s, g], a checkpoint of the paper's agent, under this critic
    critics = {
        name: case.checkpoint("float64").params[ONLINE] for name in ("critic", "target_critic")
    }
    flow = Checkpoint(ck.options, params={"policy": case.policy("qgf").astype(float), **critics})
    guided = qgf_ref.load(policy=flow, critic=source).flow
    z, traces = case.arrays("official_float32"), case.arrays("trace_float64")
    obs = np.concatenate([z["observations"], z["goals"]], axis=1).astype(float)
    run = f"qgf/{ONLINE}/logit/qgf/w{c['weights'][0]:g}"
    action = qgf_ref.sample(guided, obs, weight=c["weights"][0], noise=z["noise"].astype(float))
    assert abs(action - traces[f"{run}/action"]).max() < 1e-12
    # what guides, chosen where it is used
    chosen = {"guide_critic": "target", "guide_output": "probability"}
    other = case.checkpoint(**chosen)
    assert qgf_ref.load(source, settings=chosen).agent.stated == other.agent.stated
    z_in, z_out = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(z_in, obs=obs, noise=z["noise"].astype(float))
    typed = [f"{name}={value}" for name, value in chosen.items()]
    words = ["--input", str(z_in), "--out", str(z_out), "--weight", "1", "--set", *typed]
    assert main(["trace", "--checkpoint", str(source), *words]) == 0
    expected = qgf_ref.sample(other.flow, obs, weight=1.0, noise=z["noise"].astype(float))
    np.testing.assert_array_equal(np.load(z_out)["action"], expected)
    moved = tmp_path / "moved.npz"
    assert main(["convert", str(source), str(moved), "--set", *typed]) == 0
    assert qgf_ref.load(moved).agent.stated == other.agent.stated
    # horizon-reduction's own flow of [s, g], which has no critic
    cloned = tmp_path / "cloned" / "params_1.pkl"
    cloned.parent.mkdir()
    cloned.write_bytes((case.path / "policy_gcfbc.pkl").read_bytes())
    flags = {"agent": {"agent_name": "gcfbc", "flow_steps": ck.options.denoise_steps,
                       "horizon_length": ck.horizon}}  # fmt: skip
    cloned.with_name("flags.json").write_text(json.dumps(flags))
    alone = tmp_path / "cloned.safetensors"
    assert main(["convert", str(cloned), str(alone)]) == 0
    run = f"gcfbc/{ONLINE}/logit/qgf/w{c['weights'][0]:g}"
    for file in (cloned, alone):
        guided = qgf_ref.load(policy=file, critic=source).flow
        action = qgf_ref.sample(guided, obs, weight=c["weights"][0], noise=z["noise"].astype(float))
        assert abs(action - traces[f"{run}/action"]).max() < 1e-12
    capsys.readouterr()
    assert main(["audit", "--checkpoint", str(cloned), "--out", str(tmp_path / "audit")]) == 2
    assert "which has no critic" in capsys.readouterr().err
    for path, flag, says in (
        (source, "guide=1", "unknown setting 'guide'"),
        (source, "guide_output=logit --set guide_output=logit", "gives guide_output twice"),
        (source, "guide_output=odds", "the valid ones are: logit, probability"),
        (case.path.parents[1] / "chunked", "guide_output=logit", "the agent iql has no settings"),
    ):
        assert main(["explain", "--checkpoint", str(path), "--set", *flag.split()]) == 2
        assert says in capsys.readouterr().err
    assert main(["train", "cube-single-play-singletask-task1-v0", "--agent", "dqc", "--out",
                 str(tmp_path / "run")]) == 2  # fmt: skip
    assert "needs a goal-conditioned name" in capsys.readouterr().err
    made_up = golden_like(c["obs_dim"] + c["goal_dim"], ck.flat_action_dim)
    recipe: Any = ck.agent.require_recipe()
    batch = recipe.taking(made_up)
    drawn = recipe.draw(np.random.default_rng(0), batch, case.hyper())
    values = losses(recipe, ck.networks(), batch, drawn, case.hyper()).values
    assert np.isfinite(list(values.values())).all()
