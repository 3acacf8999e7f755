"""The sweeps of the bias-variance study: over t, w, the errors of Q and v, geometry; and curl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.audit.definitions import at_action, departure_from_gradient_field
from qgf_ref.evaluation.statistics import bootstrap_mean
from qgf_ref.guidance.base import Estimator
from qgf_ref.studies.bias_variance.boundary import (
    PREDICTED,
    linear_response,
    log2_ratio,
    measured_boundary,
    predicted_boundary,
)
from qgf_ref.studies.bias_variance.phase import both_errors, critic_errors, field_errors
from qgf_ref.studies.bias_variance.scores import measure, score_rows
from qgf_ref.studies.shared.problems import EXACT, Problem

Row = dict[str, Any]
Progress = Callable[[], object]

ROLLOUTS = ("bptt", "qgf_chain")
"""Estimators that integrate to the end: too slow for the sweeps of many cells."""


@dataclass(frozen=True)
class Size:
    """How much is computed. rows: states of each time; draws: of the errors."""

    dims: tuple[int, ...] = (1, 2, 10, 25)
    shown_dims: tuple[int, ...] = (2, 10)
    weights: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    boundary_weights: tuple[float, ...] = (0.1, 0.5, 2.0)
    weight: float = 0.5
    strains: tuple[float, ...] = (0.0, 0.03, 0.1, 0.2, 0.4, 1.0)
    rhos: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)
    separations: tuple[float, ...] = (0.5, 1.0, 2.0)
    sds: tuple[float, ...] = (0.15, 0.3, 0.6)
    exact_rows: int = 256
    rows: int = 24
    draws: int = 12
    curl_rows: int = 12
    sample_rows: int = 600
    sample_draws: int = 4
    coarse: bool = False


QUICK = replace(
    Size(),
    dims=(1, 2, 10),
    shown_dims=(2,),
    weights=(0.03, 0.3, 3.0),
    boundary_weights=(0.5,),
    strains=(0.0, 0.1, 0.3, 1.0),
    rhos=(0.0, 0.3, 3.0),
    separations=(0.5, 2.0),
    sds=(0.15, 0.6),
    exact_rows=64,
    rows=16,
    draws=6,
    curl_rows=8,
    sample_rows=300,
    sample_draws=3,
    coarse=True,
)

TYPICAL_RHO, TYPICAL_STRAIN = 0.5, 0.2
"""The errors of the curves "with errors": the gradient of Q off by half, a strain near the
boundary."""
ANISOTROPY = 4.0
"""Of M where curl is measured: the ratio of its largest eigenvalue to its smallest."""


def one_step(estimators: Sequence[Estimator]) -> list[Estimator]:
    """Those that do not integrate to the end."""
    return [e for e in estimators if e.label not in ROLLOUTS]


def exact_sweeps(
    size: Size, estimators: Sequence[Estimator], seed: int, tick: Progress
) -> list[Row]:
    """Exact v and Q: by t at one weight, over w, and over the geometry at n = 2."""
    table: list[Row] = []

    def add(problem: Problem, sweep: str, by_time: bool = False) -> None:
        made = measure(problem, EXACT, estimators, rows=size.exact_rows, draws=1, seed=seed)
        table.extend(score_rows(made, sweep, by_time))
        tick()

    for n in size.dims:
        add(Problem(n, size.weight), "t", by_time=True)
        for w in size.weights:
            add(Problem(n, w), "w")
    for separation in size.separations:
        for sd in size.sds:
            add(Problem(2, size.weight, separation, sd), "geometry")
    return table


def noise_sweeps(
    size: Size, estimators: Sequence[Estimator], seed: int, tick: Progress
) -> list[Row]:
    """Over the error of Q and of v at one weight, for the figures' dimensions."""
    table: list[Row] = []
    options = {"rows": size.rows, "draws": size.draws, "seed": seed}
    for n in size.shown_dims:
        problem = Problem(n, size.weight)
        slope = problem.critic_slope(problem.points(size.exact_rows, seed))
        for rho in size.rhos:
            made = measure(problem, critic_errors(problem, slope, rho), estimators, **options)
            table += [{**row, "rho": rho} for row in score_rows(made, "critic")]
            tick()
        for strain in size.strains:
            made = measure(problem, field_errors(problem, strain), estimators, **options)
            table += [{**row, "strain": strain} for row in score_rows(made, "field")]
            tick()
    return table


def boundary_cells(size: Size) -> list[Problem]:
    """Where the boundary is looked for: every n and w at the default geometry, n = 2 at others."""
    cells = [Problem(n, w) for n in size.dims for w in size.boundary_weights]
    others = [
        Problem(2, size.weight, separation, sd)
        for separation in size.separations
        for sd in size.sds
    ]
    return cells + [p for p in others if p not in cells]


def boundaries(size: Size, estimators: Sequence[Estimator], seed: int, tick: Progress) -> list[Row]:
    """For each problem and rival: strain of v's error and slope of Q's beyond which qgf has the
    smaller scaled error, predicted and measured. qgf must be among the estimators.
    """
    table: list[Row] = []
    rivals = [e.label for e in estimators if e.label not in ("qgf", "ood", "none")]
    for problem in boundary_cells(size):
        points = problem.points(size.exact_rows, seed)
        slope = problem.critic_slope(points)
        response = linear_response(problem, points, problem.truth(points))
        kinds = {
            "strain": (size.strains, [field_errors(problem, s) for s in size.strains]),
            "rho": (size.rhos, [critic_errors(problem, slope, r) for r in size.rhos]),
        }
        units = {
            "strain": field_errors(problem, 1.0),
            "rho": critic_errors(problem, slope, 1.0),
        }
        for kind, (factors, errors) in kinds.items():
            ratios: dict[str, list[float]] = {rival: [] for rival in rivals}
            for e in errors:
                # without errors there is one draw, and more points cost nothing
                rows = size.exact_rows if e.none else size.rows
                made = measure(problem, e, estimators, rows=rows, draws=size.draws, seed=seed)
                for rival in rivals:
                    ratios[rival].append(log2_ratio(made, rival)[0])
            tick()
            for rival in rivals:
                row = {
                    "n": problem.n,
                    "w": problem.weight,
                    "separation": problem.separation,
                    "sd": problem.sd,
                    "kind": kind,
                    "rival": rival,
                    "measured": measured_boundary(factors, ratios[rival]),
                    "largest_tried": max(factors),
                    "log2_ratio_exact": ratios[rival][0],
                }
                if rival in PREDICTED:
                    pair = response["qgf"], response[rival]
                    row["predicted"] = predicted_boundary(*pair, units[kind])
                table.append(row)
    return table


def curls(size: Size, estimators: Sequence[Estimator], seed: int, tick: Progress) -> list[Row]:
    """Mean departure from a gradient field by t, as the audit measures it, over states.

    Of a Q with curvature M ≠ I: of M = I and an exact v even `qgf` is a gradient field. From the
    first positive time: at t = 0 the exact E[x1|x_t] is constant, its departure undefined.
    """
    table: list[Row] = []
    for n in size.shown_dims:
        problem = Problem(n, size.weight, anisotropy=ANISOTROPY)
        points = problem.points(size.curl_rows, seed)
        slope = problem.critic_slope(points)
        networks = {
            "exact": EXACT,
            "with errors": both_errors(problem, slope, TYPICAL_RHO, TYPICAL_STRAIN),
        }
        for name, errors in networks.items():
            flow = problem.flow_with(errors, seed)
            for e in estimators:
                for k, x in enumerate(points[1:], start=1):
                    step = problem.step(flow, x, k)
                    each = departure_from_gradient_field(e, flow, at_action(flow, step, x))
                    value, low, high = bootstrap_mean(np.minimum(each, 1e6))
                    numbers = {"value": value, "low": low, "high": high}
                    where = {"n": n, "w": size.weight, "networks": name, **asdict(errors)}
                    table.append({**where, "estimator": e.label, "t": flow.times[k], **numbers})
                tick()
    return table
