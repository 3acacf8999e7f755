"""What the bias-variance study measures, as a list of cells: each gives rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from qgf_ref.audit.definitions import at_action, departure_from_gradient_field
from qgf_ref.evaluation.statistics import bootstrap_mean
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator
from qgf_ref.studies.bias_variance.boundary import boundary_rows
from qgf_ref.studies.bias_variance.errors import (
    PLANES,
    both_errors,
    critic_errors,
    field_errors,
    ideal_states,
)
from qgf_ref.studies.bias_variance.phase import phase_rows
from qgf_ref.studies.bias_variance.samples import Condition, sample_distances
from qgf_ref.studies.bias_variance.scores import measure, score_rows
from qgf_ref.studies.bias_variance.size import SweepSize
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
    for n, plane in product(size.shown_dims if compared[1:] else (), PLANES):
        for y, x in product(plane.y[::stride], plane.x[::stride]):
            at = partial(phase_rows, Problem(n, size.weight), plane, x, y)
            yield "phase", partial(at, compared, rows=size.rows, draws=size.draws, seed=seed)
    for n, networks, e in product(size.shown_dims, ("exact", "with errors"), chosen):
        yield "curl", partial(curl_rows, size, n, networks, e, seed)
    samplers = [e for e in one_step if e.label != "none"]
    for condition in _conditions(size, seed):
        yield (
            "samples",
            partial(
                sample_distances,
                condition,
                samplers,
                rows=size.sample_rows,
                draws=size.sample_draws,
                seed=seed,
            ),
        )


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
    for n in size.shown_dims:
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
    measured = measure(problem, errors, estimators, rows=rows, draws=draws, seed=seed)
    return [{**row, **columns} for row in score_rows(measured, sweep, by_time)]


def _geometries(size: SweepSize) -> list[Problem]:
    return [Problem(2, size.weight, *geometry) for geometry in product(size.separations, size.sds)]


def boundary_problems(size: SweepSize) -> list[Problem]:
    """Where the boundary is looked for: every n and w at the default geometry, n = 2 at others."""
    usual = [Problem(n, w) for n, w in product(size.dims, size.boundary_weights)]
    return usual + [p for p in _geometries(size) if p not in usual]


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
        each = departure_from_gradient_field(e, flow, at_action(flow, step, x))
        mean = bootstrap_mean(np.minimum(each, 1e6))
        table.append({**where, "estimator": e.label, "t": flow.times[k], **mean._asdict()})
    return table


def _conditions(size: SweepSize, seed: int) -> Iterator[Condition]:
    for n in size.shown_dims:
        usual, strong = Problem(n, size.weight), Problem(n, STRONG)
        slope = ideal_states(usual, size.exact_rows, seed).slope
        yield Condition(usual, EXACT, f"exact w={size.weight:g}")
        yield Condition(strong, EXACT, f"exact w={STRONG:g}")
        for strain in (0.3, 1.0, 3.0):
            yield Condition(usual, field_errors(usual, strain), f"strain {strain:g}")
        yield Condition(usual, critic_errors(usual, slope, 1.0), "slope 1")
