"""Which estimator is nearest to the exact tilted law, at every w, with right and wrong v and Q.

method.md, section 6, derives the factor that the paper's sampler lacks. This study follows it
through: the schedule (`qgf_jacobian_scheduled`), the conditional covariance (`qgf_covariance`), and
the tilt as a shift of the denoiser's argument (`qgf_shifted`), at T = 10 and at T = 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import student_mean
from qgf_ref.guidance.qgf_shifted import QGFShiftedTaylor
from qgf_ref.guidance.registry import estimator
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.correction.scenes import CONDITIONS, Contender, Scene, reached, scenes
from qgf_ref.studies.correction.words import (
    BASELINE,
    FREE_TIME,
    MORE_STEPS,
    STEPS,
    figure,
    report,
)

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


@dataclass(frozen=True)
class Size:
    """weights; draws of errors and noise; rows of a sample in one and in more dimensions."""

    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    draws: int = 4
    rows_1d: int = 1000
    rows: int = 400
    names: tuple[str, ...] = ("1-D", "1-D distance", "1-D bump", "2-D", "10-D")
    conditions: tuple[str, ...] = ("exact", "wrong v", "wrong Q", "both wrong")


QUICK = Size(
    weights=(0.03, 0.3, 3.0),
    draws=2,
    rows_1d=400,
    rows=200,
    names=("1-D", "1-D distance", "2-D"),
    conditions=("exact", "both wrong"),
)


def study(settings: StudySettings) -> Outcome:
    """Distances of every estimator's samples to the exact law, and their ratio to qgf's.

    Raises InputError when `oracle`, which is always beside the others, is among the estimators.
    """
    size = QUICK if settings.quick else Size()
    chosen = contenders(settings.estimators)
    rows = measure(size, chosen, settings.seed)
    compared = comparison(rows)
    return Outcome(
        text=report(size.weights, size.draws, chosen, compared),
        tables={"": rows, "ratios": compared},
        figures={"distance": figure(size.names, size.conditions, rows, STEPS)},
        details={
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
    found = [Contender(e.label, e) for e in map(estimator, names or DEFAULT)]
    if any(c.label == "oracle" for c in found):
        raise InputError("the oracle is there wherever v and Q are exact: leave it out")
    if BASELINE not in [c.label for c in found]:
        found.insert(0, Contender(BASELINE, estimator(BASELINE)))
    if names is None:
        found.append(Contender(FREE_TIME, QGFShiftedTaylor(grid=False)))
        found.append(Contender(MORE_STEPS, estimator(BASELINE), refine=3))
    return found


def measure(size: Size, chosen: Sequence[Contender], seed: int) -> list[dict[str, Any]]:
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
    with tqdm(total=len(cells) * len(size.weights), unit="weight", disable=None) as bar:
        for scene, condition, steps in cells:
            bar.set_description(f"{scene.name}, {condition}, T = {steps}")
            for weight in size.weights:
                rows += _cell(size, chosen, scene, condition, steps, weight, seed)
                bar.update()
    return rows


def _cell(
    size: Size,
    chosen: Sequence[Contender],
    scene: Scene,
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
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for r in rows:
        cell = found.setdefault((r["scene"], r["condition"], r["T"], r["weight"]), {})
        value = math.inf if r["distance"] is None else r["distance"]
        cell.setdefault(r["estimator"], []).append(value)
    table = []
    for (scene, condition, steps, weight), cell in found.items():
        for name, values in cell.items():
            if name == BASELINE:
                continue
            ratio = np.array(values) / np.array(cell[BASELINE])
            row = {
                "scene": scene, "condition": condition, "T": steps, "weight": weight,
                "estimator": name,
            }  # fmt: skip
            if not np.isfinite(ratio).all():
                table.append({**row, "ratio": None, "low": None, "high": None})
                continue
            mean = student_mean(np.log(ratio))
            table.append(
                {**row, "ratio": float(np.exp(mean.value)), "low": float(np.exp(mean.low)),
                 "high": float(np.exp(mean.high))}
            )  # fmt: skip
    return table
