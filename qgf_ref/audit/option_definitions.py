"""The options of `qgf_ref.guidance.options` once more: one function of the base's G for each.

Row by row, with NumPy's own norm and statistics where the options have primitives that can be
recorded. Nothing of the options but their numbers is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import OracleStep
from qgf_ref.guidance.options.base import Wrapped
from qgf_ref.guidance.options.gate import Gated
from qgf_ref.guidance.options.interval import Interval
from qgf_ref.guidance.options.norm import NormClipped
from qgf_ref.guidance.options.part import Prefix, RealDimensions
from qgf_ref.guidance.options.schedule import Scheduled

OptionRule = Callable[[Any, OracleStep, Array], Array]
"""(the option, where it is asked, the base's G (B, D)) → its own G (B, D)."""


def _norm_clipped(e: NormClipped, at: OracleStep, g: Array) -> Array:
    rows = [row if np.linalg.norm(row) + 1e-6 <= e.max_norm
            else row * e.max_norm / (np.linalg.norm(row) + 1e-6) for row in g]  # fmt: skip
    return np.array(rows).reshape(g.shape)


def _interval(e: Interval, at: OracleStep, g: Array) -> Array:
    inside = e.low <= round(at.step.time, 6) <= e.high
    return g if inside else 0 * g


def _factor(e: Scheduled, t: float) -> float:
    number = e.number or 0.0
    match e.shape:
        case "up":
            return t
        case "down":
            return 1 - t
        case "cosine":
            return float(np.sin(np.pi * t / 2) ** 2)
        case "power":
            return float(np.power(t, number))
        case "rtc":
            variance = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
            exact = (1 - t) / (t * variance) if t else np.inf
            return float(np.minimum(number, exact))
    raise AssertionError(f"the schedule {e.shape} has no definition")


def _prefix(e: Prefix, at: OracleStep, g: Array) -> Array:
    chunks = g.reshape(len(g), e.among, -1).copy()
    chunks[:, e.first :] = 0
    return chunks.reshape(g.shape)


def _real(e: RealDimensions, at: OracleStep, g: Array) -> Array:
    chunks = g.reshape(len(g), -1, e.among).copy()
    chunks[:, :, e.first :] = 0
    return chunks.reshape(g.shape)


def _gated(e: Gated, at: OracleStep, g: Array) -> Array:
    # where the base asks the critic is the base's own to say, what the members say there is not
    query = e.base(at.flow, at.step).query
    if query is None:  # at this time it asks nothing
        return 0 * g
    members, _ = at.flow.critic.forward(at.step.obs, query)
    deviation = members.std(axis=0)
    c = e.threshold
    gate = c / (c + deviation) if e.soft else (deviation < c).astype(float)
    return gate[:, None] * g


_RULES: dict[type[Wrapped], OptionRule] = {
    NormClipped: _norm_clipped,
    Interval: _interval,
    Gated: _gated,
    Scheduled: lambda e, at, g: _factor(e, at.step.time) * g,
    Prefix: _prefix,
    RealDimensions: _real,
}


def base_step(e: Wrapped, at: OracleStep) -> OracleStep:
    """Where the base is asked: at the same step, of a schedule at its own weight."""
    if not isinstance(e, Scheduled):
        return at
    weight = _factor(e, at.step.time) * np.asarray(at.step.weight)
    return OracleStep(at.flow, replace(at.step, weight=weight if weight.ndim else float(weight)))


def option_defined(e: Wrapped) -> bool:
    """Whether the option's rule is here."""
    return type(e) in _RULES


def option_definition(e: Wrapped, at: OracleStep, g: Array) -> Array:
    """G (B, D) of the option from the base's, by its definition."""
    return _RULES[type(e)](e, at, g)
