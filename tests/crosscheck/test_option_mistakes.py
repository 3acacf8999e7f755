"""Ports of guidance with options: right ones agree, and what is wrong with an option is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.sampler.mistakes.options import OPTIONS
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.sampling import trace
from tests.crosscheck.ports import lively

ROWS, WEIGHT = 24, 0.7
RNG = np.random.default_rng(8)
OBS = RNG.standard_normal((ROWS, 6)).astype(np.float32)
NOISE = RNG.standard_normal((ROWS, 4)).astype(np.float32)
LOW, HIGH, MOST, SIGMA, BETA = 0.2, 0.6, 0.5, 0.3, 3.0
T = 5
EPS = np.float32(1e-6)
Rule = Callable[[Array, Array, float], Array]
"""(∇Q (B, D), members (E, B), t) → G, of a port."""


@cache
def networks() -> Checkpoint:
    return lively()


def length(x: Array) -> Array:
    return np.sqrt((x * x).sum(-1, keepdims=True))


def clipped(g: Array, size: Array) -> Array:
    return g * np.minimum(1, np.float32(MOST) / (size + EPS))


def by_action(g: Array) -> Array:
    parts = g.reshape(ROWS, networks().horizon, -1)
    return clipped(parts, length(parts)).reshape(g.shape)


def where(condition: bool, g: Array) -> Array:
    return g if condition else 0 * g


def within(t: float) -> bool:
    return LOW - 1e-6 < t < HIGH + 1e-6


def rtc(t: float) -> float:
    return min(BETA, (t * t + (1 - t) ** 2) / (t * (1 - t))) if 0 < t < 1 else BETA


def gate(g: Array, sigma: Array) -> Array:
    return g * (sigma < SIGMA)[:, None].astype(np.float32)


def only(g: Array, columns: Any) -> Array:
    kept = np.zeros_like(g)
    kept[:, columns] = g[:, columns]
    return kept


RIGHT: dict[str, Rule] = {
    f"norm={MOST}": lambda g, q, t: clipped(g, length(g)),
    f"interval={LOW},{HIGH}": lambda g, q, t: where(within(t), g),
    "schedule=up": lambda g, q, t: np.float32(t) * g,
    "schedule=power,2.0": lambda g, q, t: np.float32(t * t) * g,
    f"schedule=rtc,{BETA}": lambda g, q, t: np.float32(rtc(t)) * g,
    f"gate={SIGMA}": lambda g, q, t: gate(g, q.std(0)),
    "prefix=1/2": lambda g, q, t: only(g, [0, 1]),
    "real=1/2": lambda g, q, t: only(g, [0, 2]),
    "prefix=2/4": lambda g, q, t: only(g, [0, 1]),
    "real=2/4": lambda g, q, t: only(g, [0, 1]),
}
WRONG: list[tuple[str, str, Rule]] = [
    (f"norm={MOST}", "norm-ignored", lambda g, q, t: g),
    (f"norm={MOST}", "norm-of-weighted", lambda g, q, t: clipped(g, length(WEIGHT * g))),
    (f"norm={MOST}", "norm-of-batch", lambda g, q, t: clipped(g, np.sqrt((g * g).sum()))),
    (f"norm={MOST}", "norm-by-action", lambda g, q, t: by_action(g)),
    (f"norm={MOST}", "norm-by-element", lambda g, q, t: np.clip(g, -MOST, MOST)),
    (f"norm={MOST}", "norm-always", lambda g, q, t: g * (np.float32(MOST) / (length(g) + EPS))),
    (f"prefix=1/2+norm={MOST}", "norm-before-options",
     lambda g, q, t: only(clipped(g, length(g)), [0, 1])),
    (f"norm={MOST}+interval={LOW},{HIGH}+real=1/2", "norm-after-options",
     lambda g, q, t: where(within(t), clipped(only(g, [0, 2]), length(only(g, [0, 2]))))),
    (f"interval={LOW},{HIGH}", "interval-ignored", lambda g, q, t: g),
    (f"interval={LOW},{HIGH}", "interval-reversed", lambda g, q, t: where(within(1 - t), g)),
    (f"interval={LOW},{HIGH}", "interval-outside", lambda g, q, t: where(not within(t), g)),
    (f"interval={LOW},{HIGH}", "interval-of-next-step",
     lambda g, q, t: where(within(t + 1 / T), g)),
    (f"interval={LOW},{HIGH}", "interval-open",
     lambda g, q, t: where(within(t) and t < HIGH - 1e-6, g)),
    ("schedule=up", "schedule-ignored", lambda g, q, t: g),
    ("schedule=up", "schedule-reversed", lambda g, q, t: np.float32(1 - t) * g),
    ("schedule=up", "schedule-of-next-step", lambda g, q, t: np.float32(t + 1 / T) * g),
    ("schedule=power,2.0", "schedule-twice", lambda g, q, t: np.float32(t**4) * g),
    (f"schedule=rtc,{BETA}", "schedule-rtc-without-variance",
     lambda g, q, t: np.float32(min(BETA, (1 - t) / t) if t else BETA) * g),
    (f"gate={SIGMA}", "gate-ignored", lambda g, q, t: g),
    (f"gate={SIGMA}", "gate-reversed", lambda g, q, t: g - gate(g, q.std(0))),
    (f"gate={SIGMA}", "gate-unbiased", lambda g, q, t: gate(g, q.std(0, ddof=1))),
    (f"gate={SIGMA}", "gate-of-variance", lambda g, q, t: gate(g, q.var(0))),
    (f"gate={SIGMA}", "gate-of-batch", lambda g, q, t: where(q.std(0).mean() < SIGMA, g)),
    (f"gate={SIGMA}", "gate-hard-or-soft",
     lambda g, q, t: g * (SIGMA / (SIGMA + q.std(0)))[:, None].astype(np.float32)),
    ("prefix=1/2", "prefix-ignored", lambda g, q, t: g),
    ("prefix=1/2", "prefix-last", lambda g, q, t: only(g, [2, 3])),
    ("prefix=2/4", "prefix-one-more", lambda g, q, t: only(g, [0, 1, 2])),
    ("prefix=2/4", "prefix-one-less", lambda g, q, t: only(g, [0])),
    ("real=1/2", "real-ignored", lambda g, q, t: g),
    ("real=1/2", "real-last", lambda g, q, t: only(g, [1, 3])),
    ("real=2/4", "real-one-more", lambda g, q, t: only(g, [0, 1, 2])),
    ("real=2/4", "real-one-less", lambda g, q, t: only(g, [0])),
]  # fmt: skip


def run(rule: Rule, weight: float, traced: bool) -> dict[str, Array]:
    """`qgf` written out in float32, with something done to G."""
    single = networks().astype("float32")
    flow, steps = single.guided_flow(embedding="float32"), T
    a, kept = NOISE, []
    for k in range(steps):
        t = float(np.float32(k) * (np.float32(1) / np.float32(steps)))
        v, _ = flow.field.forward(OBS, a, t)
        query = np.clip(a + np.float32(1 - t) * v, -1, 1)
        q, cache = flow.critic.forward(OBS, query)
        g = rule(flow.critic.vjp((q == q.min(0)).astype(np.float32), cache), q, t)
        g = g.astype(np.float32)
        kept.append((a, v, query, g))
        a = a + (v + np.float32(weight) * g) / np.float32(steps)
    names = ("a", "v", "a1_hat", "g")
    whole = dict(zip(names, map(np.stack, zip(*kept, strict=True)), strict=True))
    return {"action": np.clip(a, -1, 1), **(whole if traced else {})}


def compared(option: str, rule: Rule, traced: bool) -> Comparison:
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **run(rule, WEIGHT, traced)})
    return compare(networks(), theirs, estimator=f"qgf+{option}", weight=WEIGHT, denoise_steps=T)


SLOW = [pytest.param(option, marks=pytest.mark.slow) for option in list(RIGHT)[3:]]


@pytest.mark.parametrize("option", [*list(RIGHT)[:3], *SLOW])
def test_right_ports_agree(option: str) -> None:
    assert compared(option, RIGHT[option], traced=True).agrees


@pytest.mark.slow
@pytest.mark.parametrize(("option", "name", "rule"), WRONG, ids=[name for _, name, _ in WRONG])
def test_mistakes_are_named_from_a_trace(option: str, name: str, rule: Rule) -> None:
    comparison = compared(option, rule, traced=True)
    assert [e.names for e in comparison.diagnosis.explanations] == [(name,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "name", "rule"), WRONG[::7], ids=[name for _, name, _ in WRONG[::7]]
)
def test_mistakes_are_among_those_named_from_actions(option: str, name: str, rule: Rule) -> None:
    """All of them were, when this was written: a sample is tried."""
    comparison = compared(option, rule, traced=False)
    assert (name,) in [e.names for e in comparison.diagnosis.explanations]


def test_every_mistake_is_made_here() -> None:
    assert {m.name for m in OPTIONS} == {name for _, name, _ in WRONG}


@pytest.mark.slow
def test_another_estimator_under_the_option_is_named() -> None:
    """The option stays where the estimator inside is another one."""
    flow = networks().astype("float32").guided_flow(embedding="float32")
    how: dict[str, Any] = {"estimator": f"qgf_jacobian+norm={MOST}", "weight": WEIGHT}
    arrays = trace(flow, OBS, noise=NOISE, denoise_steps=T, **how).arrays()
    kept = {name: arrays[name] for name in ("a", "v", "a1_hat", "g", "action")}
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **kept})
    option = f"qgf+norm={MOST}"
    comparison = compare(networks(), theirs, estimator=option, weight=WEIGHT, denoise_steps=T)
    assert ("gradient-jacobian",) in [e.names for e in comparison.diagnosis.explanations]


@pytest.mark.slow
def test_one_is_named_among_other_options() -> None:
    """Wherever the option stands."""
    option, right = f"gate={SIGMA}+norm={MOST}+prefix=1/2", RIGHT[f"gate={SIGMA}"]

    def rule(norm: Rule) -> Rule:
        return lambda g, q, t: only(norm(right(g, q, t), q, t), [0, 1])

    assert compared(option, rule(RIGHT[f"norm={MOST}"]), True).agrees
    comparison = compared(option, rule(lambda g, q, t: np.clip(g, -MOST, MOST)), True)
    assert [e.names for e in comparison.diagnosis.explanations] == [("norm-by-element",)]
