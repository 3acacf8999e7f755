"""GradStep and CFGRL: right ports agree, and their own mistakes are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import GradientSteps
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.mistakes.methods import CFGRL, GRADSTEP
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.errors import InputError
from qgf_ref.files import write_npz
from qgf_ref.interop.trace_file import read_trace, recorded_trace
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS
from qgf_ref.testing import check_sampler
from tests.crosscheck.ports import lively

CLIMB = GradientSteps(3, 0.3)
ROWS, WEIGHT = 24, 2.0
RNG = np.random.default_rng(5)
OBS = RNG.standard_normal((ROWS, 6)).astype(np.float32)
NOISE = RNG.standard_normal((ROWS, 4)).astype(np.float32)
Change = Callable[..., Any]


@cache
def networks() -> Checkpoint:
    return lively()


def gradstep(
    how: GradientSteps = CLIMB,
    *,
    along: Change = lambda g: g,
    confine: Change = lambda a: np.clip(a, -1, 1),
    last: Change = lambda a: a,
    critic: str = "target_critic",
) -> Any:
    """GradStep written out in float32 around the networks' own products."""
    single = networks().astype("float32")
    policy = single.guided_flow(embedding="float32").field
    q_net = getattr(single.networks(), critic)
    T = networks().options.denoise_steps

    def sampler(obs: Array, noise: Array, weight: float) -> Array:
        a = noise
        for k in range(T):
            t = float(np.float32(k) * (np.float32(1) / np.float32(T)))
            a = a + policy.forward(obs, a, t)[0] / np.float32(T)
        a = np.clip(a, -1, 1)
        for _ in range(how.steps):
            q, cache = q_net.forward(obs, a)
            bar = np.zeros_like(q)
            bar[q.argmin(axis=0), np.arange(len(a))] = 1
            g = along(q_net.vjp(bar, cache))
            a = confine(a + np.float32(how.size) * (np.sign(g) if how.sign else g))
        return last(a)

    return sampler


def run(port: Any) -> Any:
    return recorded_trace({"obs": OBS, "noise": NOISE, "action": port(OBS, NOISE, 0.0)})


def compared(port: Any, how: GradientSteps | None = CLIMB) -> Comparison:
    return compare(networks(), run(port), estimator="none", gradient_steps=how)


@pytest.mark.parametrize(
    "how", [CLIMB, pytest.param(GradientSteps(2, 0.05, sign=True), marks=pytest.mark.slow)]
)
def test_a_right_gradstep_agrees(how: GradientSteps) -> None:
    result = compared(gradstep(how), how)
    assert result.agrees
    sign = " by the sign" if how.sign else ""
    assert f"none, then {how.steps} gradient steps of {how.size:g}{sign}" in text(result)


@pytest.mark.slow
def test_it_is_unknown_where_nobody_says_that_it_climbs() -> None:
    assert compared(gradstep(), None).diagnosis.unknown == "action"


PLANTED: dict[str, Any] = {
    "gradstep-missing": lambda: gradstep(GradientSteps(0, 0.3)),
    "gradstep-one-more": lambda: gradstep(GradientSteps(4, 0.3)),
    "gradstep-one-less": lambda: gradstep(GradientSteps(2, 0.3)),
    "gradstep-sign-or-not": lambda: gradstep(GradientSteps(3, 0.3, sign=True)),
    "gradstep-downhill": lambda: gradstep(along=lambda g: -g),
    "gradstep-unclipped": lambda: gradstep(confine=lambda a: a),
    "gradstep-clip-at-end": lambda: gradstep(confine=lambda a: a, last=lambda a: np.clip(a, -1, 1)),
    "gradstep-unit-norm": lambda: gradstep(
        along=lambda g: g / np.linalg.norm(g, axis=1, keepdims=True)
    ),
    "gradstep-batch-mean": lambda: gradstep(along=lambda g: g / np.float32(len(g))),
    "gradstep-times-dt": lambda: gradstep(along=lambda g: g / np.float32(5)),
    "gradstep-online": lambda: gradstep(critic="critic"),
}


DEFAULT = ("gradstep-one-more",)


@pytest.mark.parametrize(
    "name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in PLANTED]
)
def test_mistakes_of_gradstep_are_named_alone(name: str) -> None:
    found = compared(PLANTED[name]()).diagnosis
    assert [e.names for e in found.explanations] == [(name,)], found


def test_every_mistake_of_gradstep_is_planted() -> None:
    unplanted = {m.name for m in GRADSTEP} - set(PLANTED)
    assert unplanted == {"gradstep-mean-of-members"}  # below: it takes two members' gradients


@pytest.mark.slow
def test_check_sampler_takes_gradient_steps() -> None:
    target = networks().astype("float32").networks().target_critic
    flow = gradstep(GradientSteps(0, 0.0))

    def mean(obs: Array, noise: Array, weight: float) -> Array:
        a = flow(obs, noise, weight)
        for _ in range(CLIMB.steps):
            q, cache = target.forward(obs, a)
            g = target.vjp(np.full_like(q, 1 / len(q)), cache)
            a = np.clip(a + np.float32(CLIMB.size) * g, -1, 1)
        return a

    checked: dict[str, Any] = {"estimator": "none", "gradient_steps": CLIMB, "coverage": False}
    assert check_sampler(gradstep(), networks(), **checked).agrees
    with pytest.raises(CrossCheckError, match="gradstep-mean-of-members"):
        check_sampler(mean, networks(), **checked)


def test_a_trace_may_say_how_it_climbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qgf_ref.save_checkpoint(networks(), tmp_path / "ck.safetensors")
    said = {"estimator": "none", "gradient_steps": 3, "gradient_step_size": 0.3}
    arrays = {"obs": OBS, "noise": NOISE, "action": gradstep()(OBS, NOISE, 0.0)}
    write_npz(tmp_path / "t.npz", {**arrays, "metadata": np.array(json.dumps(said))})
    line = ["compare", "--checkpoint", str(tmp_path / "ck.safetensors"), "--trace"]
    assert main([*line, str(tmp_path / "t.npz")]) == 0
    assert "then 3 gradient steps of 0.3" in capsys.readouterr().out
    assert main([*line, str(tmp_path / "t.npz"), "--gradient-steps", "3", "much"]) == 2
    assert read_trace(tmp_path / "t.npz").gradient_steps == CLIMB
    with pytest.raises(InputError, match="gradient_steps and gradient_step_size, or neither"):
        _ = recorded_trace(arrays, {"gradient_steps": 3}).gradient_steps


def cfgrl(combine: Change = lambda v0, v1, w: v0 + w * (v1 - v0), **named: Any) -> Any:
    """CFGRL written out in float32, every quantity recorded that has a name here."""
    pair = networks().astype("float32").guided_flow(embedding="float32").auxiliary.cfgrl
    assert pair is not None
    T = networks().options.denoise_steps

    def sampler(obs: Array, noise: Array, weight: float) -> dict[str, Array]:
        a, rows = noise, []
        for k in range(T):
            t = float(np.float32(k) * (np.float32(1) / np.float32(T)))
            v0, v1 = (field.forward(obs, a, t)[0] for field in pair)
            rows.append((a, v0, v1 - v0))
            a = a + combine(v0, v1, np.float32(weight)) / np.float32(T)
        a_t, v, g = (np.stack(x) for x in zip(*rows, strict=True))
        stepwise = {"a": a_t, "v": v, "g": g}
        return {"action": np.clip(a, -1, 1), **{n: x for n, x in stepwise.items() if n in named}}

    return sampler


def test_a_right_cfgrl_agrees() -> None:
    assert check_sampler(cfgrl(), networks(), estimator="cfgrl", coverage=False).agrees
    whole = cfgrl(a=True, v=True, g=True)
    assert check_sampler(whole, networks(), estimator="cfgrl", coverage=False).agrees


@pytest.mark.slow
def test_mistakes_of_cfgrl_are_named_alone() -> None:
    wrong = {
        "cfgrl-from-conditional": lambda v0, v1, w: v1 + w * (v1 - v0),
        "cfgrl-labels-swapped": lambda v0, v1, w: v1 + w * (v0 - v1),
        "cfgrl-no-difference": lambda v0, v1, w: v0 + w * v1,
        "guidance-missing": lambda v0, v1, w: v0,
    }
    assert {m.name for m in CFGRL if not m.selects} < set(wrong)
    for name, combine in wrong.items():
        action = cfgrl(combine)(OBS, NOISE, WEIGHT)["action"]
        trace = recorded_trace({"obs": OBS, "noise": NOISE, "action": action})
        found = compare(networks(), trace, estimator="cfgrl", weight=WEIGHT).diagnosis
        assert [e.names for e in found.explanations] == [(name,)]


@pytest.mark.parametrize("ranks", ["online", "target"])
def test_cfgrl_ranks_by_the_online_critic(ranks: str) -> None:
    flow = networks().astype("float32").guided_flow(embedding="float32")
    if ranks == "target":
        flow = replace(flow, online_critic=None)
    noise = RNG.standard_normal((ROWS * 4, 4)).astype(np.float32)
    action = qgf_ref.sample(flow, OBS, noise=noise, estimator="cfgrl", weight=WEIGHT, best_of=4)
    trace = recorded_trace({"obs": OBS, "noise": noise, "action": action})
    comparison = compare(networks(), trace, estimator="cfgrl", weight=WEIGHT)
    assert comparison.agrees == (ranks == "online")
    if ranks == "target":
        named = [e.names for e in comparison.diagnosis.explanations]
        assert named == [("cfgrl-best-of-target",)]


def test_cfgrl_is_refused_where_there_is_no_such_network() -> None:
    bare = replace(networks(), auxiliary=NO_AUXILIARY_PARAMS)
    with pytest.raises(InputError, match="needs the auxiliary network cfgrl"):
        check_sampler(cfgrl(), bare, estimator="cfgrl")
