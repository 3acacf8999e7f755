"""The map of the boundary: qgf's error over a rival's, in the planes of the errors' parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import Estimator
from qgf_ref.plotting import dress, new_figure
from qgf_ref.studies.bias_variance.boundary import (
    PREDICTED,
    LinearResponse,
    linear_response,
    log2_ratio,
)
from qgf_ref.studies.bias_variance.scores import measure
from qgf_ref.studies.shared.problems import Errors, Problem

REFERENCE_LENGTH = 0.5
"""Length scale of the errors where it is not varied, in the unit of the actions."""


@dataclass(frozen=True)
class Plane:
    """Two parameters of `Errors`, as functions of the axes' values.

    errors  (problem, slope of Q there, x, y) → Errors
    """

    name: str
    x_label: str
    y_label: str
    errors: Callable[[Problem, float, float, float], Errors]
    x: tuple[float, ...]
    y: tuple[float, ...]


def critic_errors(problem: Problem, slope: float, rho: float) -> Errors:
    """An error of Q whose gradient has `rho` times the root mean square of ‖∇Q‖ (`slope`)."""
    amplitude = rho * slope / np.sqrt(problem.n) * REFERENCE_LENGTH
    return Errors(critic_amplitude=float(amplitude), critic_length=REFERENCE_LENGTH)


def field_errors(problem: Problem, strain: float) -> Errors:
    """An error e of v with √E‖(∂e/∂a)ᵀu‖² = √n·amplitude/length = `strain` for a unit vector u."""
    amplitude = strain / np.sqrt(problem.n) * REFERENCE_LENGTH
    return Errors(field_amplitude=float(amplitude), field_length=REFERENCE_LENGTH)


def both_errors(problem: Problem, slope: float, rho: float, strain: float) -> Errors:
    """The two together."""
    critic, field = critic_errors(problem, slope, rho), field_errors(problem, strain)
    return Errors(
        critic.critic_amplitude, critic.critic_length, field.field_amplitude, field.field_length
    )


LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0)
PLANES = (
    Plane(
        "field",
        "length scale of v's error",
        "sd of v's error",
        lambda p, s, x, y: Errors(field_amplitude=y, field_length=x),
        LENGTHS,
        (0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    Plane(
        "critic",
        "length scale of Q's error",
        "sd of Q's error",
        lambda p, s, x, y: Errors(critic_amplitude=y, critic_length=x),
        LENGTHS,
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    Plane(
        "both",
        "slope of Q's error / slope of Q",
        "strain of v's error, √n·sd/length",
        both_errors,
        (0.03, 0.1, 0.3, 1.0, 3.0),
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
)


@dataclass(frozen=True)
class Map:
    """log2(error of qgf/error of the rival) in one plane of one problem.

    log2 (y, x) measured; clear (y, x) whether the paired interval leaves out equality; response
    of the exact problem, from which the boundary is predicted; None of a rival that it knows not.
    """

    problem: Problem
    plane: Plane
    slope: float
    rival: str
    log2: Array
    clear: Array
    response: dict[str, LinearResponse] | None

    def predicted(self, x: float, y: float) -> float:
        """The predicted log2 ratio at axis values x, y."""
        assert self.response is not None
        errors = self.plane.errors(self.problem, self.slope, x, y)
        both = [self.response[name].error(errors) for name in ("qgf", self.rival)]
        return float(np.log2(both[0] / both[1]))


def maps(
    problem: Problem,
    plane: Plane,
    estimators: Sequence[Estimator],
    *,
    rows: int,
    draws: int,
    seed: int,
    coarse: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> tuple[list[Map], list[dict[str, Any]]]:
    """A `Map` for every rival (qgf must be among the estimators), and the rows of the table."""
    stride = 2 if coarse else 1
    xs, ys = plane.x[::stride], plane.y[::stride]
    rivals = [e.label for e in estimators if e.label != "qgf"]
    points = problem.points(rows, seed)
    slope = problem.critic_slope(points)
    response = linear_response(problem, points, problem.truth(points))
    log2 = {rival: np.zeros((len(ys), len(xs))) for rival in rivals}
    clear = {rival: np.zeros((len(ys), len(xs)), dtype=bool) for rival in rivals}
    table = []
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            errors = plane.errors(problem, slope, x, y)
            measured = measure(problem, errors, estimators, rows=rows, draws=draws, seed=seed)
            for rival in rivals:
                ratio, difference = log2_ratio(measured, rival)
                log2[rival][i, j] = ratio
                clear[rival][i, j] = not difference.low <= 0 <= difference.high
                head = {"plane": plane.name, "n": problem.n, "w": problem.weight}
                numbers: dict[str, Any] = {"rival": rival, "log2_ratio": ratio}
                for name, value in zip(("", "_low", "_high"), difference, strict=True):
                    numbers[f"squared_error_difference{name}"] = value
                if rival in response:
                    pair = [response[name].error(errors) for name in ("qgf", rival)]
                    numbers["predicted_log2_ratio"] = float(np.log2(pair[0] / pair[1]))
                table.append({**head, **asdict(errors), **numbers})
            progress()
    shown = Plane(plane.name, plane.x_label, plane.y_label, plane.errors, xs, ys)
    made = [
        Map(
            problem,
            shown,
            slope,
            rival,
            log2[rival],
            clear[rival],
            response if rival in PREDICTED else None,
        )
        for rival in rivals
    ]
    return made, table


LIMIT = 1.5
"""Colours end at a ratio of 2.8."""


def phase_figure(drawn: Sequence[Map]) -> Figure:
    """One rival: a row of panels for each problem, a column for each plane."""
    counts = list(dict.fromkeys(m.problem.n for m in drawn))
    columns = len(drawn) // len(counts)
    figure = new_figure(3.5 * columns + 0.8, 3.1 * len(counts) + 0.4)
    grid = figure.subplots(len(counts), columns, squeeze=False)
    for axes, m in zip(grid.ravel(), drawn, strict=True):
        edges = _edges(m.plane.x), _edges(m.plane.y)
        image = axes.pcolormesh(*edges, m.log2, cmap="PuOr", vmin=-LIMIT, vmax=LIMIT)
        dress(axes, f"n = {m.problem.n}", m.plane.x_label, m.plane.y_label)
        axes.grid(False)
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_ticks(axes.xaxis, m.plane.x)
        log_ticks(axes.yaxis, m.plane.y)
        y, x = np.nonzero(~m.clear)
        axes.plot(np.take(m.plane.x, x), np.take(m.plane.y, y), "k.", markersize=3)
        if m.response is not None:
            _draw_prediction(axes, m)
    bar = figure.colorbar(image, ax=grid, shrink=0.8, extend="both")
    bar.set_label(f"log2 (error of qgf / error of {drawn[0].rival})")
    line = "line: predicted boundary; " if drawn[0].response is not None else ""
    figure.suptitle(
        f"orange: qgf nearer to g*; violet: {drawn[0].rival} nearer; "
        f"{line}dot: not distinguishable",
        fontsize=9,
    )
    return figure


def log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the values that were computed, and no others."""
    axis.set_ticks(values, labels=[f"{v:g}" for v in values])
    axis.set_ticks([], minor=True)


def _edges(centres: Sequence[float]) -> Array:
    """Cell borders half way between the centres on a logarithmic axis."""
    logs = np.log(centres)
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    return np.asarray(np.exp([ends[0], *middle, ends[1]]))


def _draw_prediction(axes: Any, m: Map) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    x, y = (np.geomspace(low, high, 60) for low, high in limits)
    ratio = np.array([[m.predicted(a, b) for a in x] for b in y])
    if ratio.min() < 0 < ratio.max():
        axes.contour(x, y, ratio, levels=[0.0], colors="black", linewidths=1.6)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
