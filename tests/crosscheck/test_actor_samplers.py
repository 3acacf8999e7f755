"""check_sampler and compare of the agents whose actor is trained with the critic."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from benchmarks.golden import GOLDEN
from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, candidates
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.errors import InputError
from qgf_ref.files import write_npz
from qgf_ref.flow.diffusion import OFFICIAL, vp_schedule
from qgf_ref.guidance.registry import estimator
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import RecordedTrace, recorded_trace
from qgf_ref.ops.activations import activation
from qgf_ref.testing import (
    CrossCheckError,
    check_critic,
    check_gradient,
    check_sampler,
    check_velocity,
)
from tests.helpers.agents import small_agent, variant

STEPS = {"dac": 4}
"""With fewer, all steps' noise is the first one's but for one."""


def networks(name: str) -> Checkpoint:
    return variant(name, steps=STEPS.get(name, 3))


def setting(ck: Checkpoint) -> Setting:
    return Setting(ck.astype("float64"), estimator("none"), ck.options.denoise_steps)


def port(ck: Checkpoint, *made: Made, traced: bool = False) -> Callable[..., Any]:
    """Ours in float32 with these mistakes, from final actions or with its steps."""
    wrong = setting(ck).port(made, "float32")

    def sampler(obs: Array, noise: Array, z: Any = None) -> Any:
        drawn = z if np.ndim(z) == 3 else None
        run = free_running(wrong, Inputs(obs, noise, 0.0, len(noise) // len(obs), drawn))
        single = {name: x.astype(np.float32) for name, x in run.items()}
        known = ("a", "v", "action") if wrong.chain is None else ("action", *wrong.chain.words)
        return {name: single[name] for name in known} if traced else single["action"]

    return sampler


def named(ck: Checkpoint, made: Made, traced: bool, best_of: int = 1) -> tuple[str, ...]:
    """What is said of that port."""
    wrong = port(ck, made, traced=traced)
    with pytest.raises(CrossCheckError) as error:
        rows = 8 if best_of == 1 else 32  # a choice is one of few
        check_sampler(wrong, ck, estimator="none", best_of=best_of, coverage=False, rows=rows)
    diagnosis: Any = getattr(error.value.report, "diagnosis", None)
    assert diagnosis is not None, error.value
    return tuple(" + ".join(e.names) for e in diagnosis.explanations)


def by_hand(ck: Checkpoint, obs: Array, noise: Array, z: Array) -> Array:
    """DDPM written out from baselines.md, section 7, in the arrays' dtype; not clipped at its end.

    Not the reference's network either: features, encoder and layers are spelt out here.
    """
    params: Any = ck.part("actor")
    own: Any = ck.agent.settings
    T, clips = len(z), own.clips
    schedule, x = vp_schedule(T), noise

    def mlp(layers: Any, y: Array) -> Array:
        for i, layer in enumerate(layers):
            y = y @ layer.kernel + layer.bias
            y = activation(y, "mish")[0] if i < len(layers) - 1 else y
        return y

    for n, k in enumerate(range(T, 0, -1)):
        hat, alpha = schedule.alpha_hats[k], schedule.alphas[k]
        angle = 2 * np.pi * k * params.encoder.table[:, 0]
        told = np.concatenate([np.cos(angle), np.sin(angle)]).astype(x.dtype)
        cond = mlp(params.encoder.layers, told)
        inputs = [x, obs, np.tile(cond, (len(x), 1))]
        eps = mlp(params.layers, np.concatenate(inputs, axis=1))
        clean = (x - np.sqrt(1 - hat) * eps) / np.sqrt(hat)
        if clips.before:
            last, clean = schedule.alpha_hats[k - 1], np.clip(clean, -1, 1)
            x = np.sqrt(last) * (1 - alpha) * clean + np.sqrt(alpha) * (1 - last) * x
            x = x / (1 - hat)
        else:
            x = clean
        if k > 1:
            x = x + np.sqrt(1 - alpha) * z[n]
        if clips.after:
            x = np.clip(x, -1, 1)
    return x.astype(noise.dtype)


@pytest.mark.parametrize("name", ["fql", "dac", "qam"])
def test_our_own_samplers_agree(name: str) -> None:
    ck = networks(name)
    for traced in (False, True):
        best_of = 3 if name == "qam" and not traced else 1
        report = check_sampler(
            port(ck, traced=traced), ck, estimator="none", best_of=best_of, coverage=False, rows=8
        )
        assert report.agrees and report.diagnosis.explanations[0].excess < 0.5


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False)])
def test_a_sampler_written_out_agrees(flags: tuple[bool, bool]) -> None:
    """Whether or not its result is clipped, where the official one is not."""
    before, after = flags
    own = {"clip_sampler_before": before, "clip_sampler_after": after}
    ck = small_agent("dac", own)

    def sampler(obs: Array, noise: Array, z: Array) -> Array:
        return by_hand(ck, obs, noise, z)

    assert check_sampler(sampler, ck, coverage=False, rows=8).agrees
    assert check_sampler(lambda *x: np.clip(sampler(*x), -1, 1), ck, coverage=False, rows=8).agrees


def test_qam_ranks_by_the_online_critic() -> None:
    """As its agent does, and its bank says so of a port that ranks by the target critic."""
    ck = networks("qam")

    def agent(obs: Array, noise: Array, weight: float) -> Array:
        return ck.agent.act(ck, obs, noise, Acting(best_of=len(noise) // len(obs)))

    assert check_sampler(agent, ck, estimator="none", best_of=3, coverage=False, rows=8).agrees
    assert named(ck, Made("best-of-target", ""), False, 3) == ("best-of-target",)


@pytest.mark.parametrize(
    ("name", "mistake", "traced"),
    [
        pytest.param("dac", "alpha-hat-row-earlier", True, marks=pytest.mark.slow),
        pytest.param("dac", "noise-in-last-step", False, marks=pytest.mark.slow),
        pytest.param("qsm ddpg", "posterior-mean-unclipped", True, marks=pytest.mark.slow),
        ("fql", "acts-by-cloned-flow", False),
        ("fql", "final-clip-missing", False),
        pytest.param("qam", "acts-by-slow-flow", True, marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_named_alone(name: str, mistake: str, traced: bool) -> None:
    assert named(networks(name), Made(mistake, ""), traced) == (mistake,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fql", "dac"])
def test_every_mistake_is_named_alone(name: str) -> None:
    """From its steps, in float32, in its first variant."""
    ck = networks(name)
    made = {m.name: m for m in reversed(candidates(setting(ck).port()))}
    made.pop("last-step-missing", None)  # a step less is refused
    for one in made.values():
        assert named(ck, one, True) == (one.name,)


def test_a_port_that_draws_its_own_noise_says_which() -> None:
    ck, rng = networks("dac"), np.random.default_rng(3)

    def sampler(obs: Array, noise: Array, z: Array) -> dict[str, Array]:
        own = rng.standard_normal(z.shape).astype(np.float32)
        # one draw less, as the last is never used
        return {"action": by_hand(ck, obs, noise, own), "z": own[:-1]}

    assert check_sampler(sampler, ck, coverage=False, rows=8).agrees
    wrong = port(ck, Made("posterior-variance", ""))

    def other(obs: Array, noise: Array, z: Array) -> dict[str, Array]:
        own = rng.standard_normal(z.shape).astype(np.float32)
        return {"action": wrong(obs, noise, own), "z": own}

    with pytest.raises(CrossCheckError, match=r"^posterior-variance"):
        check_sampler(other, ck, coverage=False, rows=8)


@pytest.mark.slow
def test_a_port_that_ignores_the_noise_of_its_steps_is_told() -> None:
    ck = networks("dac")

    def sampler(obs: Array, noise: Array, z: Array) -> Array:
        own = np.random.default_rng(0).standard_normal(z.shape).astype(np.float32)
        return by_hand(ck, obs, noise, own)

    with pytest.raises(CrossCheckError, match="does not depend on the z given"):
        check_sampler(sampler, ck, coverage=False, rows=8)


def recorded(ck: Checkpoint, **changes: Any) -> RecordedTrace:
    assert isinstance(ck.agent, ActorAgent)
    rng = np.random.default_rng(1)
    obs, noise = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    run = ck.agent.trace(ck, obs.astype(np.float32), noise.astype(np.float32))
    return recorded_trace({**run, **changes}, source="theirs")


def test_an_estimate_recorded_before_its_clip_is_told() -> None:
    ck = networks("dac")
    right = recorded(ck)
    port_of = setting(ck).port(dtype="float32").with_chain(clip_clean=False)
    assert port_of.chain is not None
    net, T = port_of.flow.field, ck.options.denoise_steps
    a, v = right.stepwise["a"], right.stepwise["v"]
    raw = np.stack([port_of.chain.estimate(net, v[n], a[n], n, T) for n in range(T)])
    assert np.abs(raw).max() > 1
    result = compare(ck, recorded(ck, a1_hat=raw))
    assert result.diagnosis.record == (
        "what was recorded as a1_hat is the clean estimate before its clip",
    )
    words = text(compare(ck, recorded(ck, v=1.1 * v)))
    assert "the predicted noise" in words and "qgf-ref explain" not in words
    assert right.z is not None
    half = port(ck, traced=True)(right.obs, right.noise, right.z.astype(np.float32) / 2)
    words = " ".join(text(compare(ck, recorded(ck, **half))).split())
    assert "theirs adds c·z, c by step 0.471, 0.445, 0.392; the reference's" in words


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"z": None}, r"the agent dac adds noise in each step: write down z \(4, 12, 3\)"),
        ({"z": np.zeros((2, 12, 3))}, r"takes z \(4, 12, 3\), or without the last step's; got \(2"),
        ({"z": np.zeros((4, 12, 2))}, r"z has shape \(4, 12, 2\), expected \(T, B, D\)"),
        ({"q": np.zeros((4, 2, 12))}, r"acts without a critic and has no q; it has v \(the pred"),
        ({"a": np.zeros((5, 12, 3)), "v": None, "a1_hat": None}, "holds 5 denoising steps, exp"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], says: str) -> None:
    ck = networks("dac")
    with pytest.raises(InputError, match=says):
        compare(ck, recorded(ck, **changes))


def test_other_refusals() -> None:
    ck = networks("dac")
    theirs = recorded(ck)
    with pytest.raises(InputError, match="has no flow that qgf could guide"):
        compare(ck, theirs, estimator="qgf", weight=0.1)
    with pytest.raises(InputError, match="draws one action for each observation; 12 rows"):
        compare(ck, replace(theirs, obs=theirs.obs[:6], action=theirs.action[:6]))
    with pytest.raises(CrossCheckError, match="3 denoising steps came back; the checkpoint says 4"):
        check_sampler(lambda *x: {"action": x[1], "a": x[2][1:]}, ck)


def test_what_only_flows_have_is_refused() -> None:
    ck = networks("dac")
    with pytest.raises(InputError, match="neither best_of nor gradient_steps applies"):
        check_sampler(by_hand, ck, best_of=4)
    checks: tuple[Any, ...] = (check_velocity, check_critic, check_gradient)
    for check in checks:
        with pytest.raises(InputError, match="the agent dac acts without a flow"):
            check(by_hand, ck)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ck = networks("dac")
    save_checkpoint(ck, tmp_path / "dac.safetensors")
    theirs = recorded(ck)
    write_npz(tmp_path / "in.npz", {"obs": theirs.obs, "noise": theirs.noise})
    common = ["--checkpoint", str(tmp_path / "dac.safetensors")]
    out = tmp_path / "out.npz"
    traced = ["trace", *common, "--input", str(tmp_path / "in.npz"), "--out", str(out)]
    assert main([*traced, "--dtype", "float32"]) == 0
    with np.load(out) as file:
        arrays = dict(file)
    assert json.loads(str(arrays["metadata"]))["agent"] == "dac"
    assert (arrays["action"] == theirs.action).all() and (arrays["z"] == theirs.z).all()
    assert main(["compare", *common, "--trace", str(out)]) == 0
    assert "DDPM, clip_sampler_before=True" in capsys.readouterr().out
    write_npz(out, {**arrays, "action": np.tanh(arrays["action"])})
    report = tmp_path / "report"
    assert main(["compare", *common, "--trace", str(out), "--out", str(report)]) == 1
    assert "final-tanh" in (report / "compare.txt").read_text()
    assert main([*traced[:-1], str(tmp_path / "o.npz"), "--weight", "1"]) == 2
    assert "the agent dac, which acts without a flow (DDPM" in capsys.readouterr().err


@pytest.mark.parametrize(
    "case",
    [
        "fql/iql",
        pytest.param("qsm/ddpg_clip_after", marks=pytest.mark.slow),
        pytest.param("dac/iql", marks=pytest.mark.slow),
        pytest.param("dac/ddpg_clip_before", marks=pytest.mark.slow),
    ],
)
def test_the_official_samples_agree(case: str) -> None:
    """Final actions of the official code; its diffusion's are not clipped."""
    path = GOLDEN / case
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    ck = qgf_ref.load(path / "params_0.pkl", dtype="float32")
    with np.load(path / "samples_float32.npz") as file:
        official = dict(file)
    result = compare(ck, recorded_trace({**official, "action": official["actions"]}))
    assert result.agrees, text(result)
    settings: Any = ck.agent.settings
    if case == "dac/iql":
        assert settings.clips == OFFICIAL and result.setting.open_ended
