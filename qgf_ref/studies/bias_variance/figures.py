"""The figures of the bias-variance study: error, bias, variance, curl, samples, the boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.interpolate import RectBivariateSpline

from qgf_ref.arrays import Array
from qgf_ref.plotting import dress, reach, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.bias_variance.errors import PLANES, Plane
from qgf_ref.studies.shared.figures import grid, legend, lines, ticks

ERRORS = {
    "error": "error of G / size of g*",
    "scaled_error": "error at the best scale",
}
BOTTOM = 0.01
"""Of the logarithmic panels: 1% of g*. What is less is as good as exact."""
NOISES = {
    "critic": ("rho", "slope of Q's error / slope of Q"),
    "field": ("strain", "strain of v's error, √n·sd/length"),
}
LIMIT = 1.5
"""Colours of the boundary's map end at a ratio of 2.8."""


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """Over t, w and the errors; curl; samples; and the boundary's map for each rival."""
    scores, phase = tables[""], tables["phase"]
    by_time = [r for r in select(scores, sweep="t") if r["t"] is not None]
    noise = [r for r in scores if r["sweep"] in NOISES]
    parts = {"bias": "bias / size of g*", "sd": "sd / size of g*"}
    maps = {f"phase_{r}": _map(select(phase, rival=r)) for r in distinct(phase, "rival")}
    return {
        "time": _errors(by_time, "t", "flow time t"),
        "weight": _errors(select(scores, sweep="w"), "w", "guidance weight w"),
        "noise": _noise(noise, {"scaled_error": "error at the best scale"}, log_y=False),
        "bias_variance": _noise(noise, parts, log_y=True),
        "curl": _curl(tables["curl"]),
        "samples": _samples(tables["samples"]),
        **maps,
    }


def _errors(rows: Rows, x: str, label: str) -> Figure:
    """Raw and scaled error against column x, a column of panels for each n."""
    dims = sorted(distinct(rows, "n"))
    figure, panels = grid(2, len(dims), 2.6, 2.6)
    for row, (quantity, y) in zip(panels, ERRORS.items(), strict=True):
        for axes, n in zip(row, dims, strict=True):
            lines(axes, select(rows, quantity=quantity, n=n), x, alpha=0.15)
            log = "x" * (x == "w") + "y" * (quantity == "error")
            dress(axes, f"n = {n}", label, y if n == dims[0] else "", log=log)
            if quantity == "error":
                axes.set_ylim(bottom=max(BOTTOM, axes.get_ylim()[0]))
            else:
                axes.set_ylim(0, 1.05)
            axes.minorticks_off()
    legend(figure, panels[0][0])
    return figure


def _noise(rows: Rows, quantities: Mapping[str, str], log_y: bool) -> Figure:
    """The quantities against the error of Q and of v, a row of panels for each n."""
    dims = sorted(distinct(rows, "n"))
    figure, grids = grid(len(dims), 2 * len(quantities), 2.6, 2.6)
    for panels, n in zip(grids, dims, strict=True):
        columns = [(s, q) for s in NOISES for q in quantities]
        for axes, (sweep, quantity) in zip(panels, columns, strict=True):
            x, label = NOISES[sweep]
            here = [r for r in select(rows, sweep=sweep, n=n, quantity=quantity) if r[x] > 0]
            ticked = sorted(distinct(here, x))
            if log_y:  # zero within rounding, or within its interval, has no place on the axis
                here = [r for r in here if r["value"] > BOTTOM and r["low"] > 0]
            lines(axes, here, x, names=distinct(rows, "estimator"), alpha=0.15)
            dress(axes, f"n = {n}", label, quantities[quantity], log="xy" if log_y else "x")
            ticks(axes.xaxis, ticked)
            if log_y:
                axes.minorticks_off()
                axes.set_ylim(bottom=BOTTOM)
            else:
                axes.set_ylim(0, 1.05)
    legend(figure, grids[0][0])
    return figure


def _curl(rows: Rows) -> Figure:
    """Departure from a gradient field against t, by n and by whether the networks are exact."""
    columns = distinct(rows, "n", "networks")
    figure, (panels,) = grid(1, len(columns), 2.6, 2.6)
    for axes, (n, networks) in zip(panels, columns, strict=True):
        lines(axes, select(rows, n=n, networks=networks), "t", alpha=0.15)
        y = "" if axes is not panels[0] else "‖A − Aᵀ‖/‖A + Aᵀ‖"
        dress(axes, f"n = {n}, {networks}", "flow time t", y)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(bottom=0)
    legend(figure, panels[0])
    return figure


def _samples(samples: Rows) -> Figure:
    """Energy distance of tuned samples, a panel for each condition; dotted: exact samples."""
    energy = select(samples, metric="energy")
    tuned = select(energy, at="tuned")
    dims, conditions = sorted(distinct(tuned, "n")), distinct(tuned, "condition")
    figure, grids = grid(len(dims), len(conditions), 2.3, 2.4, 1.6, sharey=True)
    for panels, n in zip(grids, dims, strict=True):
        for axes, condition in zip(panels, conditions, strict=True):
            for r in select(tuned, n=n, condition=condition):
                look = {k: style(r["estimator"])[k] for k in ("color", "marker")}
                at = r["value"], r["estimator"]
                axes.errorbar(*at, xerr=reach(r), markersize=5, capsize=2, **look)
            (floor,) = select(energy, estimator="exact samples", n=n, condition=condition)
            axes.axvline(floor["value"], color="black", linewidth=0.8, linestyle=":")
            dress(axes, f"n = {n}, {condition}", "energy distance" if n == dims[-1] else "", "")
            axes.tick_params(axis="y", labelsize=7.5)
            axes.title.set_fontsize(8.5)
            axes.set_xlim(left=0)
    grids[0][0].invert_yaxis()
    return figure


def _map(rows: Rows) -> Figure:
    """One rival: log2 of the errors' ratio, a row of panels for each n, a column for each plane."""
    dims, names = distinct(rows, "n"), distinct(rows, "plane")
    planes = [plane for plane in PLANES if plane.name in names]
    figure, grids = grid(len(dims), len(planes), 3.5, 3.1, 0.8)
    predicted = all(r.get("predicted_log2_ratio") is not None for r in rows)
    for panels, n in zip(grids, dims, strict=True):
        for axes, plane in zip(panels, planes, strict=True):
            image = _plane(axes, plane, select(rows, n=n, plane=plane.name), predicted)
            dress(axes, f"n = {n}", plane.x_label, plane.y_label)
            axes.grid(False)
    rival = rows[0]["rival"]
    bar = figure.colorbar(image, ax=grids, shrink=0.8, extend="both")
    bar.set_label(f"log2 (error of qgf / error of {rival})")
    line = "line: predicted boundary; " if predicted else ""
    figure.suptitle(
        f"orange: qgf nearer to g*; violet: {rival} nearer; {line}dot: not distinguishable",
        fontsize=9,
    )
    return figure


def _plane(axes: Any, plane: Plane, rows: Rows, predicted: bool) -> Any:
    """The rows are in the order of `phase_rows`: y outside, x inside, every second if coarse."""
    stride = 1 if len(rows) == len(plane.x) * len(plane.y) else 2
    x, y = plane.x[::stride], plane.y[::stride]

    def square(column: str) -> Array:
        return np.array([r[column] for r in rows]).reshape(len(y), len(x))

    ratio = square("log2_ratio")
    image = axes.pcolormesh(_edges(x), _edges(y), ratio, cmap="PuOr", vmin=-LIMIT, vmax=LIMIT)
    low, high = (square(f"squared_error_difference_{end}") for end in ("low", "high"))
    unclear = np.nonzero((low <= 0) & (high >= 0))
    axes.plot(np.take(x, unclear[1]), np.take(y, unclear[0]), "k.", markersize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks(axes.xaxis, x)
    ticks(axes.yaxis, y)
    if predicted:
        _prediction(axes, x, y, square("predicted_log2_ratio"))
    return image


def _prediction(axes: Any, x: Sequence[float], y: Sequence[float], ratio: Array) -> None:
    """Where the predicted ratio is 1, linear between its values at the cells: what is smoother
    overshoots, and draws boundaries where there are none.
    """
    surface = RectBivariateSpline(np.log(y), np.log(x), ratio, kx=1, ky=1)
    fine_x, fine_y = (np.geomspace(values[0], values[-1], 60) for values in (x, y))
    fine = surface(np.log(fine_y), np.log(fine_x))
    if fine.min() < 0 < fine.max():
        axes.contour(fine_x, fine_y, fine, levels=[0.0], colors="black", linewidths=1.6)


def _edges(centres: Sequence[float]) -> Array:
    """Cell borders half way between the centres on a logarithmic axis."""
    logs = np.log(centres)
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    return np.asarray(np.exp([ends[0], *middle, ends[1]]))
