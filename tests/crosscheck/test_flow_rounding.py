"""Ports round anybody's networks that round otherwise: their times, or in half precision."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError, adapters, sample, trace
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison, as_dict, compare
from qgf_ref.flow.convention import convention
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.trace_file import recorded_trace

T, D, ROWS = 10, 3, 8
RNG = np.random.default_rng(0)
OBS, NOISE = RNG.standard_normal((ROWS, 4)), RNG.standard_normal((ROWS, D))
W, U = RNG.standard_normal((4, D)), RNG.standard_normal((D, D))
SHARP = 3e4
"""Radians per unit of time: an embedding that sees the rounding of t, as published ones do."""


def flow(grid: Any = "exact", dtype: str = "float64") -> GuidedFlow:
    """Closed-form networks, asked in openpi's convention on a grid."""

    def field(obs: Array, x: Array, tau: Array) -> Array:
        phase = np.asarray(SHARP * np.asarray(tau, np.float64)).reshape(-1, 1)
        return (np.tanh(obs @ W + x @ U) + np.sin(phase)).astype(obs.dtype)

    def critic(obs: Array, x: Array) -> Array:
        return -((x - np.tanh(obs[:, :1])) ** 2).sum(axis=1)

    told = replace(convention("openpi"), grid=grid)
    return adapters.functions(
        field, critic, action_shape=D, obs_dim=4, dtype=dtype, denoise_steps=T, convention=told,
        differences=("vjp", "jvp"),
    )  # fmt: skip


@dataclass(frozen=True)
class Half:
    """A network whose results and products are bfloat16's: 8 bits of significand."""

    base: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def forward(self, *inputs: Any) -> tuple[Array, Any]:
        y, cache = self.base.forward(*inputs)
        return bfloat16(y), cache

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        return bfloat16(self.base.vjp(y_bar, cache))


def bfloat16(x: Array) -> Array:
    """To nearest even."""
    word = np.ascontiguousarray(x, np.float32).view(np.uint32)
    word = (word + np.uint32(0x7FFF) + ((word >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return word.view(np.float32).astype(x.dtype)


def test_a_budget_that_ends_among_the_grids_costs_nothing_that_is_known() -> None:
    """What the port's own grid says is reported."""
    calls = next(n for n in compared(flow()).notes if "calls of a network" in n)
    budget = int(calls.split()[0]) + 3
    run = trace(flow(), OBS, estimator="ood", weight=0.3, noise=NOISE).arrays()
    parts = {n: x for n, x in run.items() if n in ("a", "v", "a1_hat", "action")}
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **parts})
    how: dict[str, Any] = {"estimator": "qgf", "weight": 0.3, "convention": "qgf"}
    comparison = compare(flow(), theirs, budget=budget, **how)
    assert not comparison.agrees and comparison.diagnosis.unknown == "a1_hat"
    assert f"{budget} calls are spent" in comparison.diagnosis.known[0]


def half() -> GuidedFlow:
    own = flow()
    return replace(own, field=Half(own.field), critic=Half(own.critic))


def compared(port: GuidedFlow, traced: bool = True, **how: Any) -> Comparison:
    given: dict[str, Any] = {"estimator": "qgf", "weight": 0.3, "noise": NOISE}
    if traced:
        run = trace(port, OBS, **given)
        arrays = {n: x for n, x in run.arrays().items() if n in ("a", "v", "a1_hat", "action")}
    else:
        arrays = {"action": sample(port, OBS, **given)}
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **arrays})
    return compare(flow(), theirs, estimator="qgf", weight=0.3, convention="qgf", **how)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("grid", ["accumulated", "reciprocal"])
def test_times_that_are_rounded_otherwise_are_told(grid: str, traced: bool) -> None:
    """Not unknown: the port is right, and the report says how it rounds."""
    comparison = compared(flow(grid), traced)
    assert comparison.agrees
    assert any(f"rounded as the grid '{grid}'" in note for note in comparison.notes)
    assert not any("grid" in note for note in compared(flow(), traced).notes)


def test_a_mistake_on_another_grid_is_named_all_the_same() -> None:
    """From v, which tells the grid."""
    run = trace(flow("accumulated"), OBS, estimator="ood", weight=0.3, noise=NOISE)
    parts = {n: x for n, x in run.arrays().items() if n in ("a", "v", "a1_hat", "g", "action")}
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **parts})
    comparison = compare(flow(), theirs, estimator="qgf", weight=0.3, convention="qgf")
    names = {name for e in comparison.diagnosis.explanations for name in e.names}
    assert not comparison.agrees
    assert "query-noisy" in names


def test_half_precision_is_judged_as_such_where_somebody_says_so() -> None:
    port = half()
    assert not compared(port).agrees
    comparison = compared(port, precision="bfloat16")
    assert comparison.agrees
    assert any("rounding of bfloat16" in note for note in comparison.notes)
    json.dumps(as_dict(comparison))


def test_a_mistake_larger_than_half_precision_is_named() -> None:
    """From a trace: final actions in bfloat16 tell next to nothing apart."""
    run = trace(half(), OBS, estimator="ood", weight=0.8, noise=NOISE)
    parts = {n: x for n, x in run.arrays().items() if n in ("a", "v", "a1_hat", "g", "action")}
    theirs = recorded_trace({"obs": OBS, "noise": NOISE, **parts}, {"precision": "bfloat16"})
    comparison = compare(flow(), theirs, estimator="qgf", weight=0.8, convention="qgf")
    assert [e.names for e in comparison.diagnosis.explanations] == [("query-noisy",)]


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InputError, match=r"precision 'float8'.*float16, bfloat16"):
        compared(flow(), precision="float8")
