"""Clamps and mixed signs of ports around any flow, and reports that speak of what they checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.mistakes.convention import CLAMPS
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.testing import check_critic, check_velocity
from tests.crosscheck.closed_flow import NOISE, OBS, WEIGHT, T, flow
from tests.crosscheck.ports import lively

Loop = Callable[[Any, Array], Array]


def euler(
    fields: Any,
    *,
    seen: Callable[[Array], Array] = lambda a: a,
    drift: Callable[[Array, Array, Array], Array] = lambda a, v, wg: v + wg,
    end: Callable[[Array], Array] = lambda a: np.clip(a, -1, 1),
    query: Callable[[Array, Array, float], Array] = lambda a, v, rest: a + rest * v,
    bound: float = 1.0,
) -> Any:
    """A float32 port of qgf, written out."""

    def run(obs: Array, noise: Array) -> Array:
        a = noise
        for k in range(T):
            t = float(np.float32(k) * (np.float32(1) / np.float32(T)))
            v = fields.field.forward(obs, seen(a), t)[0]
            x = np.clip(query(a, v, np.float32(1 - t)), -bound, bound)
            q, cache = fields.critic.forward(obs, x)
            bar = np.zeros_like(q)
            bar[q.argmin(axis=0), np.arange(len(a))] = 1
            wg = np.float32(WEIGHT) * fields.critic.vjp(bar, cache)
            a = a + drift(a, v, wg) / np.float32(T)
        return end(a)

    return run


WRONG: dict[str, dict[str, Any]] = {
    "clamp-network-input": {"seen": lambda a: np.clip(a, -1, 1)},
    "clamp-before-guidance": {
        "drift": lambda a, v, wg: (np.clip(a + v / T, -1, 1) - a) * np.float32(T) + wg
    },
    "velocity-clamped": {"drift": lambda a, v, wg: np.clip(v, -1, 1) + wg},
    "velocity-sign": {"drift": lambda a, v, wg: -v + wg},
    "query-velocity-sign": {"query": lambda a, v, rest: a - rest * v},
    "query-factor-t": {"query": lambda a, v, rest: a + (1 - rest) * v},
    "clip-every-step": {
        "drift": lambda a, v, wg: (np.clip(a + (v + wg) / T, -1, 1) - a) * np.float32(T)
    },
}
FAST = ("clamp-network-input", "velocity-sign")


def named(fields: Any, against: Any, **how: Any) -> list[tuple[str, ...]]:
    action = euler(fields, **how)(OBS, NOISE)
    trace = recorded_trace({"obs": OBS, "noise": NOISE, "action": action})
    found = compare(against, trace, estimator="qgf", weight=WEIGHT, convention="qgf")
    return [e.names for e in found.diagnosis.explanations]


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in WRONG]
)
def test_they_are_named_alone_round_a_flow_in_openpis_convention(name: str) -> None:
    assert named(flow("float32"), flow(), **WRONG[name]) == [(name,)]


def test_a_flow_without_a_bound_is_not_clamped() -> None:
    """What the port clamps then to ±1, of its own accord."""
    free, single = (replace(flow(d), action_bound=None) for d in ("float64", "float32"))
    unbounded: dict[str, Any] = {"bound": np.inf}
    assert named(single, free, **unbounded, end=lambda a: a) == [()]
    assert named(single, free, **unbounded) == [("final-clip-added",)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_they_are_named_alone_round_a_checkpoint(name: str) -> None:
    ck = lively(steps=T)
    rng = np.random.default_rng(2)
    obs = rng.standard_normal((12, 6)).astype(np.float32)
    noise = rng.standard_normal((12, 4)).astype(np.float32)
    port = euler(ck.astype("float32").guided_flow(embedding="float32"), **WRONG[name])
    trace = recorded_trace({"obs": obs, "noise": noise, "action": port(obs, noise)})
    found = compare(ck, trace, estimator="qgf", weight=WEIGHT).diagnosis
    assert [e.names for e in found.explanations] == [(name,)]


def test_every_clamp_is_planted() -> None:
    assert {m.name for m in CLAMPS} - set(WRONG) == {"final-clip-added"}


def test_the_report_of_one_network_speaks_of_that_network() -> None:
    ck = lively()
    relu = replace(ck, options=replace(ck.options, activation="relu")).astype("float32")
    nets = relu.guided_flow(embedding="float32")
    checks: tuple[tuple[Any, Any, str, str], ...] = (
        (check_critic, lambda s, a: nets.critic.forward(s, a)[0], "critic", "policy"),
        (check_velocity, lambda s, a, t: nets.field.forward(s, a, t)[0], "policy", "critic"),
    )
    for check, wrong, own, other in checks:
        with pytest.raises(CrossCheckError) as caught:
            check(wrong, ck)
        said = str(caught.value)
        assert f"activation-relu (in the {own} only)" in said
        assert other not in said.replace("the critic's members", "") and "in the call" not in said
    right = ck.astype("float32").guided_flow(embedding="float32").critic
    report = check_critic(lambda s, a: right.forward(s, a)[0], ck)
    assert report.agrees and not [name for name in report.hidden if "policy" in name]
