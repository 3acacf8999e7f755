"""The map of the boundary: qgf's error over a rival's, in the planes of the errors' parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from qgf_ref.guidance.base import Estimator
from qgf_ref.studies.bias_variance.boundary import log2_ratio, response_of
from qgf_ref.studies.bias_variance.errors import Plane, ideal_states
from qgf_ref.studies.bias_variance.scores import measure
from qgf_ref.studies.shared.problems import Problem


def phase_rows(
    problem: Problem,
    plane: Plane,
    x: float,
    y: float,
    estimators: Sequence[Estimator],
    *,
    rows: int,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """log2(error of qgf/error of the rival) at one point of a plane, measured and, where the
    calculation knows the rival, predicted: a row for every rival. qgf must be among the estimators.
    """
    states = ideal_states(problem, rows, seed)
    response = response_of(problem, rows, seed)
    errors = plane.errors(problem, states.slope, x, y)
    measured = measure(problem, errors, estimators, rows=rows, draws=draws, seed=seed)
    table = []
    for rival in (e.label for e in estimators if e.label != "qgf"):
        ratio, difference = log2_ratio(measured, rival)
        row = {"plane": plane.name, "n": problem.n, "w": problem.weight, **asdict(errors)}
        row |= {"rival": rival, "log2_ratio": ratio}
        for name, value in zip(("", "_low", "_high"), difference, strict=True):
            row[f"squared_error_difference{name}"] = value
        if rival in response:
            pair = [response[name].error(errors) for name in ("qgf", rival)]
            row["predicted_log2_ratio"] = float(np.log2(pair[0] / pair[1]))
        table.append(row)
    return table
