"""From errors of G to errors of samples: ten guided steps against the exact tilted law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.evaluation.statistics import Estimate, student_mean
from qgf_ref.flow.distances import energy_distance, sliced_wasserstein
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator
from qgf_ref.sampling import sample
from qgf_ref.studies.shared.problems import Errors, Problem

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the weight w that defines the target: what tuning w may use."""
DIRECTIONS = 50


@dataclass(frozen=True)
class Condition:
    """A problem with errors, and what tables call the errors."""

    problem: Problem
    errors: Errors
    title: str


def sample_distances(
    condition: Condition,
    estimators: Sequence[Estimator],
    *,
    rows: int,
    draws: int,
    seed: int,
    progress: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Distances of `rows` samples to as many of the tilted law, each draw with its own errors.

    "at_w": guided with the target's own weight. "tuned": with the multiplier that was best in the
    other draws, so that none is chosen by the draw it is reported on. Intervals: Student's t over
    the draws; metric "below_qgf" is the energy distance of `qgf` less the estimator's, by draw.
    Besides the estimators: `none`; `oracle` where v and Q are exact; and "exact samples", a second
    sample of the tilted law, the floor that finite samples leave.
    """
    guides = [estimator("none"), *(e for e in estimators if e.label != "none")]
    if condition.errors.none:
        guides.append(estimator("oracle"))
    n = condition.problem.n
    distances: dict[str, list[list[tuple[float, float]]]] = {e.label: [] for e in guides}
    floor = []
    for r in range(draws):
        rng = np.random.default_rng((seed, r, n))
        target = condition.problem.tilted.sample(rng, rows)
        noise = rng.standard_normal((rows, n))
        floor.append(_distances(condition.problem.tilted.sample(rng, rows), target))
        flow = condition.problem.flow_with(condition.errors, seed * 100_003 + r)
        for guide in guides:
            fixed = guide.label in ("none", "oracle")
            cells = []
            for factor in (1.0,) if fixed else MULTIPLIERS:
                weight = factor * condition.problem.weight
                made = sample(
                    flow, np.zeros((rows, 0)), estimator=guide, weight=weight, noise=noise
                )
                cells.append(_distances(made, target))
            distances[guide.label].append(cells)
            progress()
    table: list[dict[str, Any]] = []
    head = {
        "condition": condition.title,
        "n": n,
        "w": condition.problem.weight,
        **asdict(condition.errors),
    }

    def add(label: str, weight: str, values: Array) -> None:
        for i, metric in enumerate(("energy", "sliced_wasserstein")):
            e: Estimate = student_mean(values[:, i])
            numbers = {"value": e.value, "low": e.low, "high": e.high}
            table.append({**head, "estimator": label, "at": weight, "metric": metric, **numbers})

    add("exact samples", "at_w", np.array(floor))
    values = {}
    for label, each in distances.items():
        grid = np.array(each)  # (draws, multipliers, metrics)
        values[label, "at_w"] = grid[:, 0 if grid.shape[1] == 1 else MULTIPLIERS.index(1.0)]
        values[label, "tuned"] = np.array([_tuned(grid, r) for r in range(draws)])
    for (label, at), distance in values.items():
        add(label, at, distance)
        if ("qgf", at) in values and label != "qgf":
            below = student_mean(values["qgf", at][:, 0] - distance[:, 0])
            row = {**head, "estimator": label, "at": at, "metric": "below_qgf"}
            table.append({**row, "value": below.value, "low": below.low, "high": below.high})
    return table


def _distances(x: Array, y: Array) -> tuple[float, float]:
    directions = np.random.default_rng(0)
    return energy_distance(x, y), sliced_wasserstein(x, y, directions, DIRECTIONS)


def _tuned(cells: Array, r: int) -> Array:
    """Draw r at the multiplier with the least mean distance in the other draws, metric by metric.

    Of a single draw, that draw's own best.
    """
    others = np.delete(cells, r, axis=0) if len(cells) > 1 else cells
    best = others.mean(axis=0).argmin(axis=0)
    return np.take_along_axis(cells[r], best[None], axis=0)[0]
