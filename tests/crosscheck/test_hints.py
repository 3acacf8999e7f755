"""The line under a finding: with the option that it names, the port that was accused is right."""

from __future__ import annotations

import re
from typing import Any

import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.crosscheck.compare import Comparison, as_dict, compare
from qgf_ref.crosscheck.sampler.hints import hints
from qgf_ref.crosscheck.sampler.mistakes.bank import BANK, Made
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.interop.trace_file import recorded_trace
from tests.crosscheck.ports import inputs, lively, port_run, setting
from tests.helpers.agents import variant

BOTH, POLICY, CRITIC = "in policy and critic", "in the policy only", "in the critic only"
OPTIONS: list[tuple[Made, dict[str, Any], str]] = [
    (Made("gelu-erf", BOTH), {"activation": "gelu_erf"}, "--activation gelu_erf"),
    (Made("gelu-erf", POLICY), {"activation": "gelu,policy=gelu_erf"}, "gelu,policy=gelu_erf"),
    (Made("activation-relu", CRITIC), {"activation": "gelu,critic=relu"}, "gelu,critic=relu"),
    (Made("layer-norm-eps-1e-5", BOTH), {"layer_norm_eps": 1e-5}, "--layer-norm-eps 1e-05"),
    (Made("activation-before-norm", BOTH), {"norm_after_activation": "all"}, "activation all"),
    (Made("activation-before-norm", CRITIC), {"norm_after_activation": "critic"}, "ation critic"),
    (Made("policy-input-action-first", ""), {"policy_inputs": "action,obs,time"}, "on,obs,time"),
    (Made("policy-input-time-first", ""), {"policy_inputs": "time,obs,action"}, "time,obs,acti"),
    (Made("ensemble-mean", ""), {"q_aggregation": "mean"}, "--q-aggregation mean"),
]  # fmt: skip


def recorded(ck: Checkpoint, chosen: Setting, *made: Made) -> Any:
    given = inputs(ck, rows=10)
    arrays = {**port_run(chosen, made, given), "obs": given.obs, "noise": given.noise}
    known = {"estimator": chosen.estimator.name, "weight": float(given.weight)}
    return recorded_trace(arrays, known)


def hint_of(found: Comparison, made: Made) -> str:
    """Its line in the report, which is the one in the JSON."""
    (line,) = found.diagnosis.hints.values()
    assert list(found.diagnosis.hints) == [str(made)]
    words = text(found)
    assert line in " ".join(words.split()) and max(map(len, words.splitlines())) <= 100
    (told,) = (m["hint"] for e in as_dict(found)["explanations"] for m in e["mistakes"])
    assert told == line
    return str(line)


@pytest.mark.parametrize(("made", "options", "says"), OPTIONS, ids=lambda x: str(x)[:40])
def test_the_option_makes_the_port_right(made: Made, options: dict[str, Any], says: str) -> None:
    ck = lively()
    theirs = recorded(ck, setting(ck), made)
    line = hint_of(compare(ck, theirs), made)
    assert says in line and "its option is wrong: " in line
    (name,) = options
    assert f"{name}={options[name]!r}" in line
    assert compare(qgf_ref.load(policy=ck, **options), theirs).agrees


@pytest.mark.parametrize(
    ("name", "own", "made", "settings"),
    [
        ("dqc", {}, "gradient-of-probability", {"guide_output": "probability"}),
        ("dqc", {"guide_output": "probability"}, "gradient-of-logit", {"guide_output": "logit"}),
        ("dqc", {}, "critic-target", {"guide_critic": "target"}),
        ("dac", {}, "no-clip", {"clip_sampler_before": False, "clip_sampler_after": False}),
        ("qsm", {}, "clip-after", {"clip_sampler_before": False, "clip_sampler_after": True}),
    ],
)
def test_the_setting_makes_the_port_right(
    name: str, own: dict[str, Any], made: str, settings: dict[str, Any]
) -> None:
    ck = variant(name, own)
    typed = {n: str(v).lower() for n, v in settings.items()}
    line = hints(setting(qgf_ref.load(policy=ck)), [Made(made, "")])[made]
    assert "--set " + " ".join(f"{n}={v}" for n, v in typed.items()) in line
    changed = qgf_ref.load(policy=ck, settings=settings)
    assert {n: changed.agent.stated[n] for n in settings} == settings


def test_what_an_option_explains_in_part_alone_is_not_told() -> None:
    chosen = setting(lively())
    assert not hints(chosen, [Made("gradient-negated", "")])
    assert not hints(chosen, [Made("layer-norm-eps-1e-5", POLICY)])
    assert not hints(chosen, [Made("ensemble-mean", "")], ranked=True)
    both = [Made("ensemble-mean", ""), Made("best-of-mean", "")]
    assert set(hints(chosen, both, ranked=True)) == {"ensemble-mean"}
    every = {name for item in BANK for name in hints(chosen, [Made(item.name, BOTH)])}
    assert {re.sub(r" \(.*", "", name) for name in every} <= {item.name for item in BANK}


def test_times_that_are_meant_and_bfloat16() -> None:
    ck = lively()
    found = compare(ck, recorded(ck, setting(ck), Made("time-float64", "")))
    assert '"time_embedding": "exact"' in hint_of(found, Made("time-float64", ""))
    assert (
        "--precision bfloat16"
        in hints(setting(ck), [Made("matmul-bf16", BOTH)])[f"matmul-bf16 ({BOTH})"]
    )
