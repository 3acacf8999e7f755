"""A checkpoint loaded with an option that its networks do not have: which one, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.nets.mlp import MLPParams
from tests.crosscheck.ports import case, inputs, lively, port_run, setting

OWN: dict[str, Any] = {
    "activation": "silu,critic=mish",
    "policy_inputs": "raw_time,action,obs",
    "residual": "policy",
    "norm_after_activation": "critic",
    "layer_norm_eps": 1e-5,
}
"""Of the networks; some are not what they have in the official code, and none in all of them."""
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"policy_inputs": "obs,action,raw_time"}, "policy-reads-time-action-obs", ""),
    ({"policy_inputs": "action,obs,raw_time"}, "policy-reads-time-action-obs", ""),
    ({"residual": None}, "residual-added", "policy"),
    ({"residual": "all"}, "residual-missing", "critic"),
    ({"activation": "relu,critic=mish"}, "activation-is-silu", "policy"),
    ({"activation": "gelu,critic=mish"}, "activation-silu", "policy"),
    ({"activation": "silu,critic=relu"}, "activation-is-mish", "critic"),
    ({"activation": "silu"}, "activation-is-mish", "critic"),
    ({"norm_after_activation": None}, "activation-before-norm", "critic"),
    ({"norm_after_activation": "all"}, "norm-before-activation", "policy"),
    ({"layer_norm_eps": None}, "layer-norm-eps-1e-5", ""),
    ({"layer_norm_eps": 1e-2}, "layer-norm-eps-1e-5", ""),
]


def one_column(params: MLPParams) -> MLPParams:
    """Without the columns of an embedded time but for one."""
    first, *rest = params.layers
    return MLPParams((replace(first, kernel=first.kernel[:11]), *rest))


def networks(**options: Any) -> Checkpoint:
    ck = lively(steps=2)
    params = {**ck.params, "policy": one_column(ck.part("policy"))}
    return replace(ck, params=params, options=replace(ck.options, **{**OWN, **options}))


SLOW = (1, 3, 4, 6, 8)
"""What others are like; the rest are tried by default."""


@pytest.mark.parametrize(
    ("options", "name", "where"),
    [
        pytest.param(*entry, id=f"{entry[1]}-{i}", marks=[pytest.mark.slow] * (i in SLOW))
        for i, entry in enumerate(WRONG)
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], name: str, where: str) -> None:
    said = networks(**options)
    given = inputs(said, rows=6)
    theirs = port_run(setting(networks()), (), given)
    _, _, diagnosis = diagnose(setting(said), [case(given, theirs)])
    assert [e.names for e in diagnosis.explanations] == [(name,)], diagnosis
    (made,) = diagnosis.explanations[0].mistakes
    if where:
        variants = {made, *(m for others in diagnosis.explanations[0].variants for m in others)}
        assert f"in the {where} only" in {m.variant for m in variants}


def test_networks_that_are_read_rightly_agree() -> None:
    given = inputs(networks(), rows=6)
    theirs = port_run(setting(networks()), (), given)
    _, _, diagnosis = diagnose(setting(networks()), [case(given, theirs)])
    assert diagnosis.agrees
