"""What the bias-variance study measures, as a list of cells: each gives rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from qgf_ref.audit.definitions import at_action, departure_from_gradient_field
from qgf_ref.evaluation.statistics import bootstrap_mean, prefixed
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator
from qgf_ref.oracles import remarks
from qgf_ref.studies.bias_variance.boundary import (
    PREDICTED,
    measured_boundary,
    predicted_boundary,
    response_of,
)
from qgf_ref.studies.bias_variance.errors import (
    PLANES,
    Plane,
    both_errors,
    critic_errors,
    field_errors,
    ideal_states,
)
from qgf_ref.studies.bias_variance.samples import Condition, sample_distances
from qgf_ref.studies.bias_variance.scores import log2_ratio, measure, score_rows
from qgf_ref.studies.shared.problems import EXACT, Errors, Problem

Row = dict[str, Any]
SweepCell = tuple[str, Callable[[], list[Row]]]
"""A table's name, and what computes some of its rows."""

ROLLOUTS = ("bptt", "qgf_chain")
"""Estimators that integrate to the end: too slow for the sweeps of many cells."""
TYPICAL_RHO, TYPICAL_STRAIN = 0.5, 0.2
"""The errors of the curves "with errors": the gradient of Q off by half, a strain near the
boundary."""
ANISOTROPY = 4.0
"""Of M where curl is measured: the ratio of its largest eigenvalue to its smallest."""
STRONG = 3.0
"""A weight at which the tilted law is almost one mode."""


@dataclass(frozen=True)
class SweepSize:
    """How much is computed. rows: states of each time; draws: of the errors; noisy_dims: those in
    which v and Q have errors, which are those of figures.
    """

    dims: tuple[int, ...] = (1, 2, 10, 25)
    noisy_dims: tuple[int, ...] = (2, 10)
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
    SweepSize(),
    dims=(1, 2, 10),
    noisy_dims=(2,),
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


def cells(size: SweepSize, chosen: Sequence[Estimator], seed: int) -> Iterator[SweepCell]:
    """Every cell of every table: the scores "", boundary, phase, curl and samples."""
    one_step = [e for e in chosen if e.label not in ROLLOUTS]
    # qgf and its rivals: those that are not known to leave the Jacobian out
    without = ("none", "ood", "qgf", "qgf_masked")
    compared = [estimator("qgf"), *(e for e in one_step if e.label not in without)]
    yield from (("", cell) for cell in score_cells(size, chosen, seed))
    for problem, kind in product(boundary_problems(size), ("strain", "rho")):
        yield "boundary", partial(boundary_rows, problem, kind, size, compared, seed)
    stride = 2 if size.coarse else 1
    for n, plane in product(size.noisy_dims if compared[1:] else (), PLANES):
        for y, x in product(plane.y[::stride], plane.x[::stride]):
            yield "phase", partial(phase_rows, size, n, plane, x, y, compared, seed)
    for n, networks, e in product(size.noisy_dims, ("exact", "with errors"), chosen):
        yield "curl", partial(curl_rows, size, n, networks, e, seed)
    samplers = [e for e in one_step if e.label != "none"]
    sampled = partial(sample_distances, rows=size.sample_rows, draws=size.sample_draws, seed=seed)
    for condition in _conditions(size, seed):
        yield "samples", partial(sampled, condition, samplers)


def score_cells(
    size: SweepSize, estimators: Sequence[Estimator], seed: int
) -> Iterator[Callable[[], list[Row]]]:
    """Exact v and Q: by t at one weight, over w, and over the geometry at n = 2. Then over the
    error of Q and of v at one weight, for the figures' dimensions.
    """
    of_these = partial(_scores, estimators=estimators, seed=seed)
    exact = partial(of_these, errors=EXACT, rows=size.exact_rows, draws=1)
    for n in size.dims:
        yield partial(exact, Problem(n, size.weight), sweep="t", by_time=True)
        for w in size.weights:
            yield partial(exact, Problem(n, w), sweep="w")
    for problem in _geometries(size):
        yield partial(exact, problem, sweep="geometry")
    noisy = partial(of_these, rows=size.rows, draws=size.draws)
    for n in size.noisy_dims:
        problem = Problem(n, size.weight)
        slope = ideal_states(problem, size.exact_rows, seed).slope
        for rho in size.rhos:
            errors = critic_errors(problem, slope, rho)
            yield partial(noisy, problem, errors=errors, sweep="critic", rho=rho)
        for strain in size.strains:
            errors = field_errors(problem, strain)
            yield partial(noisy, problem, errors=errors, sweep="field", strain=strain)


def _scores(
    problem: Problem,
    *,
    errors: Errors,
    estimators: Sequence[Estimator],
    rows: int,
    draws: int,
    seed: int,
    sweep: str,
    by_time: bool = False,
    **columns: float,
) -> list[Row]:
    measured = measure(problem, errors, estimators, rows, draws, seed)
    return [{**row, **columns} for row in score_rows(measured, sweep, by_time)]


def _geometries(size: SweepSize) -> list[Problem]:
    return [Problem(2, size.weight, *geometry) for geometry in product(size.separations, size.sds)]


def boundary_problems(size: SweepSize) -> list[Problem]:
    """Where the boundary is looked for: every n and w at the default geometry, n = 2 at others."""
    usual = [Problem(n, w) for n, w in product(size.dims, size.boundary_weights)]
    return usual + [p for p in _geometries(size) if p not in usual]


def boundary_rows(
    problem: Problem, kind: str, size: SweepSize, estimators: Sequence[Estimator], seed: int
) -> list[Row]:
    """The "strain" of v's error or slope ("rho") of Q's beyond which qgf has the smaller scaled
    error, predicted and measured: a row for each rival. qgf must be the first estimator.
    """
    if kind == "strain":
        factors, errors = size.strains, partial(field_errors, problem)
    else:
        slope = ideal_states(problem, size.exact_rows, seed).slope
        factors, errors = size.rhos, partial(critic_errors, problem, slope)
    measured = [
        # without errors there is one draw, and more points cost nothing
        measure(problem, e, estimators, size.exact_rows if e.none else size.rows, size.draws, seed)
        for e in map(errors, factors)
    ]
    response = response_of(problem, size.exact_rows, seed)
    table = []
    for rival in (e.label for e in estimators[1:]):
        ratios = [log2_ratio(m, rival)[0] for m in measured]
        row = {
            **problem.columns,
            "kind": kind,
            "rival": rival,
            "measured": measured_boundary(factors, ratios),
            "largest_tried": max(factors),
            "log2_ratio_exact": ratios[0],
        }
        if rival in PREDICTED:
            row["predicted"] = predicted_boundary(response["qgf"], response[rival], errors(1.0))
        table.append(row)
    return table


def phase_rows(
    size: SweepSize,
    n: int,
    plane: Plane,
    x: float,
    y: float,
    estimators: Sequence[Estimator],
    seed: int,
) -> list[Row]:
    """log2(error of qgf/error of the rival) at one point of a plane, measured and, where the
    calculation knows the rival, predicted: a row for each rival. qgf must be the first estimator.
    """
    problem = Problem(n, size.weight)
    response = response_of(problem, size.rows, seed)
    errors = plane.errors(problem, ideal_states(problem, size.rows, seed).slope, x, y)
    measured = measure(problem, errors, estimators, size.rows, size.draws, seed)
    head = {"plane": plane.name, "n": n, "w": size.weight, **asdict(errors)}
    table = []
    for rival in (e.label for e in estimators[1:]):
        ratio, difference = log2_ratio(measured, rival)
        row = {**head, "rival": rival, "log2_ratio": ratio}
        row |= prefixed("squared_error_difference", difference)
        if rival in response:
            pair = [response[name].error(errors) for name in ("qgf", rival)]
            row["predicted_log2_ratio"] = float(np.log2(pair[0] / pair[1]))
        table.append(row)
    return table


def curl_rows(size: SweepSize, n: int, networks: str, e: Estimator, seed: int) -> list[Row]:
    """Mean departure from a gradient field by t, as the audit measures it, over states.

    Of a Q with curvature M ≠ I: of M = I and an exact v even `qgf` is a gradient field. From the
    first positive time: at t = 0 the exact E[x1|x_t] is constant, its departure undefined.
    """
    problem = Problem(n, size.weight, anisotropy=ANISOTROPY)
    states = ideal_states(problem, size.curl_rows, seed)
    errors = both_errors(problem, states.slope, TYPICAL_RHO, TYPICAL_STRAIN)
    errors = EXACT if networks == "exact" else errors
    flow = problem.flow_with(errors, seed)
    where = {"n": n, "w": size.weight, "networks": networks, **asdict(errors)}
    table = []
    for k, x in enumerate(states.points[1:], start=1):
        step = problem.step(flow, x, k)
        with remarks():
            each = departure_from_gradient_field(e, flow, at_action(flow, step, x))
        # networks are smooth here: only a row without guidance has none, which counts as 0
        mean = bootstrap_mean(np.nan_to_num(each, nan=0.0, posinf=1e6))
        table.append({**where, "estimator": e.label, "t": flow.times[k], **mean._asdict()})
    return table


def _conditions(size: SweepSize, seed: int) -> Iterator[Condition]:
    for n in size.noisy_dims:
        usual, strong = Problem(n, size.weight), Problem(n, STRONG)
        slope = ideal_states(usual, size.exact_rows, seed).slope
        yield Condition(usual, EXACT, f"exact w={size.weight:g}")
        yield Condition(strong, EXACT, f"exact w={STRONG:g}")
        for strain in (0.3, 1.0, 3.0):
            yield Condition(usual, field_errors(usual, strain), f"strain {strain:g}")
        yield Condition(usual, critic_errors(usual, slope, 1.0), "slope 1")
