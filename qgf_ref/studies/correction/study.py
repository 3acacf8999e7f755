"""Which estimator is nearest to the exact tilted law, at every w, with right and wrong v and Q.

method.md, section 6, derives the factor that the paper's sampler lacks. This study follows it
through: the schedule (`qgf_jacobian_scheduled`), the conditional covariance (`qgf_covariance`), and
the tilt as a shift of the denoiser's argument (`qgf_shifted`), at T = 10 and at T = 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import student_mean
from qgf_ref.guidance.qgf_shifted import QGFShiftedTaylor
from qgf_ref.guidance.registry import estimator
from qgf_ref.progress import progress
from qgf_ref.studies.base import Rows, StudyOutcome, StudySettings
from qgf_ref.studies.correction.scenes import (
    BASELINE,
    CONDITIONS,
    FREE_TIME,
    MORE_STEPS,
    STEPS,
    Contender,
    TiltedScene,
    reached,
    scenes,
)
from qgf_ref.studies.correction.words import report

DEFAULT = (
    "none",
    "qgf",
    "qgf_jacobian",
    "qgf_jacobian_scheduled",
    "qgf_covariance",
    "qgf_shifted",
    "qgf_shifted_taylor",
)
MANY_STEPS = 100
CELL = ("scene", "condition", "T", "weight")
"""The columns that say where estimators are compared."""


@dataclass(frozen=True)
class CorrectionSize:
    """weights; draws of errors and noise; rows of a sample in one and in more dimensions."""

    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    draws: int = 4
    rows_1d: int = 1000
    rows: int = 400
    names: tuple[str, ...] = ("1-D", "1-D distance", "1-D bump", "2-D", "10-D")
    conditions: tuple[str, ...] = ("exact", "wrong v", "wrong Q", "both wrong")


QUICK = CorrectionSize(
    weights=(0.03, 0.3, 3.0),
    draws=2,
    rows_1d=400,
    rows=200,
    names=("1-D", "1-D distance", "2-D"),
    conditions=("exact", "both wrong"),
)


def study(settings: StudySettings) -> StudyOutcome:
    """Distances of every estimator's samples to the exact law, and their ratio to qgf's.

    Raises InputError when `oracle`, which is always beside the others, is among the estimators.
    """
    size = QUICK if settings.quick else CorrectionSize()
    chosen = contenders(settings.estimators)
    rows = measure(size, chosen, settings.seed)
    compared = comparison(rows)
    return StudyOutcome(
        report(size.weights, size.draws, chosen, compared),
        {"": rows, "ratios": compared},
        {
            "draws": size.draws,
            "rows": {"1-D": size.rows_1d, "n-D": size.rows},
            "errors": {name: vars(CONDITIONS[name]) for name in size.conditions},
            "ratios": compared,
        },
    )


def contenders(names: Sequence[str] | None = None) -> list[Contender]:
    """Those to compare: `names` or DEFAULT, qgf at the same number of v's forwards as
    `qgf_shifted`, and that with any t′.
    """
    chosen = [Contender(e.label, e) for e in map(estimator, names or DEFAULT)]
    if any(c.label == "oracle" for c in chosen):
        raise InputError("the oracle is there wherever v and Q are exact: leave it out")
    if BASELINE not in [c.label for c in chosen]:
        chosen.insert(0, Contender(BASELINE, estimator(BASELINE)))
    if names is None:
        chosen.append(Contender(FREE_TIME, QGFShiftedTaylor(grid=False)))
        chosen.append(Contender(MORE_STEPS, estimator(BASELINE), refine=3))
    return chosen


def measure(size: CorrectionSize, chosen: Sequence[Contender], seed: int) -> list[dict[str, Any]]:
    """One row for each scene, condition, T, weight, estimator and draw; distance None: diverged."""
    every = scenes()
    cells = [
        (every[name], condition, steps)
        for name in size.names
        for condition in size.conditions
        for steps in (STEPS, MANY_STEPS)
        if steps == STEPS or (condition == "exact" and name in ("1-D", "1-D distance", "1-D bump"))
    ]
    rows: list[dict[str, Any]] = []
    with progress(len(cells) * len(size.weights), "weight") as job:
        for (scene, condition, steps), weight in product(cells, size.weights):
            job.say(f"{scene.name}, {condition}, T = {steps}")
            rows += _cell(size, chosen, scene, condition, steps, weight, seed)
            job.advance()
    return rows


def _cell(
    size: CorrectionSize,
    chosen: Sequence[Contender],
    scene: TiltedScene,
    condition: str,
    steps: int,
    weight: float,
    seed: int,
) -> list[dict[str, Any]]:
    errors, flat = CONDITIONS[condition], scene.mixture.dim == 1
    # in one dimension the noise is a quadrature: without errors nothing is drawn
    draws = 1 if flat and errors.none else size.draws
    if errors.none:  # what Euler's error alone leaves
        chosen = [*chosen, Contender("oracle", estimator("oracle"))]
    count = size.rows_1d if flat else size.rows
    rows = []
    for draw in range(draws):
        at = seed * 1000 + draw
        distance = scene.distance_to(weight, at)
        for contender in chosen:
            flow = scene.flow(errors, steps * contender.refine, at)
            actions = reached(scene, flow, contender.estimator, weight, count, at)
            rows.append(
                {
                    "scene": scene.name,
                    "condition": condition,
                    "T": steps,
                    "weight": weight,
                    "estimator": contender.label,
                    "draw": draw,
                    "distance": None if actions is None else distance(actions),
                }
            )
    return rows


def comparison(rows: Rows) -> list[dict[str, Any]]:
    """distance/distance of qgf in each cell: the geometric mean over draws and its 95% interval.

    Student's t over draws; a point where nothing is drawn (exact v and Q in one dimension). None
    where the estimator diverged in one of them.
    """
    table = []
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for r in rows:
        cell = cells.setdefault(tuple(r[c] for c in CELL), {})
        value = math.inf if r["distance"] is None else r["distance"]
        cell.setdefault(r["estimator"], []).append(value)
    for key, cell in cells.items():
        for name in (n for n in cell if n != BASELINE):
            ratio = np.array(cell[name]) / np.array(cell[BASELINE])
            numbers: Sequence[float | None] = (None, None, None)
            if np.isfinite(ratio).all():
                numbers = [float(np.exp(x)) for x in student_mean(np.log(ratio))]
            table.append(
                {**dict(zip(CELL, key, strict=True)), "estimator": name}
                | dict(zip(("ratio", "low", "high"), numbers, strict=True))
            )
    return table
