"""From errors of G to errors of samples: ten guided steps against the exact tilted law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.evaluation.statistics import student_mean
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
    problem, n = condition.problem, condition.problem.n
    distances: dict[str, list[list[tuple[float, float]]]] = {"exact samples": []}
    distances |= {e.label: [] for e in guides}
    for r in range(draws):
        rng = np.random.default_rng((seed, r, n))
        target = problem.tilted.sample(rng, rows)
        noise = rng.standard_normal((rows, n))
        distances["exact samples"].append([_distances(problem.tilted.sample(rng, rows), target)])
        flow = problem.flow_with(condition.errors, seed * 100_003 + r)
        for guide in guides:
            alone = guide.label in ("none", "oracle")
            weights = [factor * problem.weight for factor in ((1.0,) if alone else MULTIPLIERS)]
            draw = partial(sample, flow, np.zeros((rows, 0)), estimator=guide, noise=noise)
            distances[guide.label].append([_distances(draw(weight=w), target) for w in weights])
    head = {"condition": condition.title, "n": n, "w": problem.weight, **asdict(condition.errors)}
    table: list[dict[str, Any]] = []
    reference = _by_choice(distances["qgf"]) if "qgf" in distances else {}
    for label, by_draw in distances.items():
        choices = _by_choice(by_draw)
        if label == "exact samples":
            del choices["tuned"]
        for at, values in choices.items():
            columns = {**head, "estimator": label, "at": at}
            metrics = dict(zip(("energy", "sliced_wasserstein"), values.T, strict=True))
            if at in reference and label not in ("qgf", "exact samples"):
                metrics["below_qgf"] = reference[at][:, 0] - values[:, 0]
            table += [
                {**columns, "metric": metric, **student_mean(each)._asdict()}
                for metric, each in metrics.items()
            ]
    return table


def _by_choice(cells: list[list[tuple[float, float]]]) -> dict[str, Array]:
    """(draws, metrics) at the target's own weight, and at the tuned one."""
    grid = np.array(cells)  # (draws, multipliers, metrics)
    at_w = grid[:, 0 if grid.shape[1] == 1 else MULTIPLIERS.index(1.0)]
    return {"at_w": at_w, "tuned": np.array([_tuned(grid, r) for r in range(len(grid))])}


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
