"""What an audit could check of each estimator; of one without a formula, what it resembles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import OracleStep
from qgf_ref.checks import Check
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.guidance.registry import learned_estimator_names

SAME = 1e-4
"""Relative; a user's function may compute in float32, where the time embedding alone costs 1e-4."""
MOST = 0.5
"""Share of the rows from which "on n of N rows" says something."""


@dataclass(frozen=True)
class Coverage:
    """What was checked of one estimator's G: "definition", "potential"; none: nothing was.

    resembles  of an estimator of which nothing was checked: a sentence on the registered ones
    """

    checked: tuple[str, ...]
    resembles: str = ""


def coverage(
    checkpoint: Checkpoint,
    estimators: list[Estimator],
    checks: list[Check],
    steps: list[OracleStep],
) -> dict[str, Coverage]:
    """Label → what was checked. steps: where estimators without a formula are compared."""
    result = {}
    for e in estimators:
        names = {check.name for check in checks}
        kinds = ("definition", "potential")
        checked = tuple(kind for kind in kinds if f"estimator {e.label} ({kind})" in names)
        result[e.label] = Coverage(checked, "" if checked else resemblance(e, checkpoint, steps))
    return result


def resemblance(estimator: Estimator, checkpoint: Checkpoint, steps: list[OracleStep]) -> str:
    """Whether G is a registered estimator's, its multiple, or the same on most rows."""
    own = _gradients(estimator, steps)
    nearest, best = "", -1.0
    for name in learned_estimator_names():
        if name == "none":
            continue
        try:
            other = _gradients(estimator_by_name(name), steps)
        except InputError:  # its network is not here
            continue
        sentence = compared(own, other, name)
        if sentence is not None:
            return sentence
        scale = np.linalg.norm(own) * np.linalg.norm(other)
        cosine = float(np.vdot(own, other) / scale) if scale else 0.0
        if cosine > best:
            nearest, best = name, cosine
    return f"equals no registered estimator; nearest: {nearest}, cosine {best:.3f}"


def compared(own: Array, other: Array, name: str) -> str | None:
    """ "is qgf", "is minus qgf", "is qgf times 0.5", "is qgf on 60 of 64 rows", or None. (N, D)."""
    squared = float(np.vdot(other, other))
    scale = float(np.vdot(own, other)) / squared if squared else 0.0
    if scale and np.linalg.norm(own - scale * other) <= SAME * np.linalg.norm(own):
        if abs(abs(scale) - 1) <= SAME:
            return f"is {'minus ' if scale < 0 else ''}{name}"
        return f"is {name} times {scale:.4g}"
    error = np.linalg.norm(own - other, axis=-1)
    same = error <= SAME * np.linalg.norm(other, axis=-1)
    return f"is {name} on {same.sum()} of {same.size} rows" if same.mean() >= MOST else None


def _gradients(estimator: Estimator, steps: list[OracleStep]) -> Array:
    flows = [estimator.on(at.flow) for at in steps]
    return np.concatenate(
        [estimator(flow, at.step).gradient for flow, at in zip(flows, steps, strict=True)]
    )
