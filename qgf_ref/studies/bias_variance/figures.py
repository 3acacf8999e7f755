"""The figures of the bias-variance study: error, bias, variance, curl and samples by estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress, legend_beside, new_figure, style
from qgf_ref.studies.base import Rows
from qgf_ref.studies.bias_variance.phase import log_ticks

Chosen = Callable[[Any], bool]


def _estimators(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["estimator"] for row in rows))


def _lines(
    axes: Any, rows: Rows, x: Callable[[Any], float], labels: Sequence[str] | None = None
) -> None:
    """A line with its interval for each estimator; of `labels` also those without a row, so that
    the legend has them.
    """
    for label in labels or _estimators(rows):
        mine = sorted((row for row in rows if row["estimator"] == label), key=x)
        look = style(label)
        axes.plot([x(r) for r in mine], [r["value"] for r in mine], label=label, **look)
        low, high = [r["low"] for r in mine], [r["high"] for r in mine]
        axes.fill_between([x(r) for r in mine], low, high, color=look["color"], alpha=0.15, lw=0)


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    figure = new_figure(2.6 * columns + 2.0, 2.6 * rows + 0.2)
    return figure, figure.subplots(rows, columns, squeeze=False)


ERRORS = {
    "error": "error of G / size of g*",
    "scaled_error": "error at the best scale",
}


def error_figure(rows: Rows, x: str, label: str, log_x: bool) -> Figure:
    """Raw and scaled error against column x, a column of panels for each n."""
    dims = sorted({row["n"] for row in rows})
    figure, grid = _grid(2, len(dims))
    for i, (quantity, y) in enumerate(ERRORS.items()):
        for axes, n in zip(grid[i], dims, strict=True):
            shown = [r for r in rows if r["quantity"] == quantity and r["n"] == n]
            _lines(axes, shown, lambda row: float(row[x]))
            dress(axes, f"n = {n}", label, y if n == dims[0] else "")
            if log_x:
                axes.set_xscale("log")
            if quantity == "error":
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.05)
            axes.minorticks_off()
    legend_beside(grid[0][-1])
    return figure


BOTTOM = 0.01
"""Of the logarithmic panels: a bias or sd below 1% of g*."""

NOISES = {
    "critic": ("rho", "slope of Q's error / slope of Q"),
    "field": ("strain", "strain of v's error, √n·sd/length"),
}


def noise_figure(rows: Rows, quantities: dict[str, str], log_y: bool) -> Figure:
    """The quantities against the error of Q and of v, a row of panels for each n."""
    dims = sorted({row["n"] for row in rows})
    figure, grid = _grid(len(dims), 2 * len(quantities))
    for i, n in enumerate(dims):
        panels = [(s, q) for s in NOISES for q in quantities]
        for axes, (sweep, quantity) in zip(grid[i], panels, strict=True):
            x, label = NOISES[sweep]
            wanted = (sweep, n, quantity)
            here = [r for r in rows if (r["sweep"], r["n"], r["quantity"]) == wanted and r[x] > 0]
            ticks = sorted({r[x] for r in here})
            if log_y:  # zero within rounding, or within its interval, has no place on the axis
                here = [r for r in here if r["value"] > BOTTOM and r["low"] > 0]
            _lines(axes, here, lambda row, x=x: float(row[x]), _estimators(rows))  # type: ignore[misc]
            dress(axes, f"n = {n}", label, quantities[quantity])
            axes.set_xscale("log")
            log_ticks(axes.xaxis, ticks)
            if log_y:
                axes.set_yscale("log")
                axes.minorticks_off()
                axes.set_ylim(bottom=BOTTOM)
            else:
                axes.set_ylim(0, 1.05)
    legend_beside(grid[0][-1])
    return figure


def curl_figure(rows: Rows) -> Figure:
    """Departure from a gradient field against t, by n and by whether the networks are exact."""
    panels = list(dict.fromkeys((row["n"], row["networks"]) for row in rows))
    figure, grid = _grid(1, len(panels))
    for axes, (n, networks) in zip(grid[0], panels, strict=True):
        shown = [r for r in rows if (r["n"], r["networks"]) == (n, networks)]
        _lines(axes, shown, lambda row: float(row["t"]))
        first = (n, networks) == panels[0]
        dress(axes, f"n = {n}, {networks}", "flow time t", "‖A − Aᵀ‖/‖A + Aᵀ‖" if first else "")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(bottom=0)
    legend_beside(grid[0][-1])
    return figure


def sample_figure(rows: Rows) -> Figure:
    """Energy distance of tuned samples, a panel for each condition."""
    shown = [r for r in rows if r["metric"] == "energy" and r["at"] == "tuned"]
    dims = sorted({row["n"] for row in shown})
    conditions = list(dict.fromkeys(row["condition"] for row in shown))
    figure = new_figure(2.3 * len(conditions) + 1.6, 2.4 * len(dims) + 0.4)
    grid = figure.subplots(len(dims), len(conditions), squeeze=False, sharey=True)
    for i, n in enumerate(dims):
        for axes, condition in zip(grid[i], conditions, strict=True):
            here = [r for r in shown if (r["n"], r["condition"]) == (n, condition)]
            _bars(axes, here)
            floor = _floor(rows, n, condition)
            axes.axvline(floor, color="black", linewidth=0.8, linestyle=":")
            last = n == dims[-1]
            dress(axes, f"n = {n}, {condition}", "energy distance" if last else "", "")
            axes.title.set_fontsize(8.5)
            axes.set_xlim(left=0)
    grid[0][0].invert_yaxis()
    return figure


def _bars(axes: Any, rows: Sequence[Any]) -> None:
    for row in rows:
        look = style(row["estimator"])
        # a percentile interval need not contain the mean of few, skewed values
        reach = [[max(row["value"] - row["low"], 0)], [max(row["high"] - row["value"], 0)]]
        axes.errorbar(
            [row["value"]],
            [row["estimator"]],
            xerr=reach,
            color=look["color"],
            marker=look["marker"],
            markersize=5,
            capsize=2,
        )
    axes.tick_params(axis="y", labelsize=7.5)


def _floor(rows: Rows, n: int, condition: str) -> float:
    wanted = ("exact samples", n, condition, "energy")
    for r in rows:
        if (r["estimator"], r["n"], r["condition"], r["metric"]) == wanted:
            return float(r["value"])
    raise KeyError(wanted)
