"""Figures of an evaluation. A method has its estimator's colour; best-of-N is hatched or dashed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qgf_ref.evaluation.critic_error import calibration, chunks
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell, Evaluation
from qgf_ref.plotting import Figure, dress, legend_beside, new_figure, style

_HATCHES = ("", "//", "xx", "..", "\\\\", "++")
_BAND = 0.1
_LIMITS = (-0.02, 1.02)


def title(cell: Cell) -> str:
    """The method, and its weight if it has one."""
    weight = "" if cell.weight is None else f"  w={cell.weight:g}"
    return cell.method.label + weight


def success_figure(evaluation: Evaluation) -> Figure:
    """Held-out success of every method at its chosen weight, with 95% intervals."""
    cells = evaluation.held_out
    from matplotlib.patheffects import withStroke

    figure = new_figure(7.2, 1.5 + 0.36 * len(cells))
    axes = figure.add_subplot()
    hatches = _hatches(evaluation.settings.methods)
    for y, cell in enumerate(cells):
        rate = cell.success
        axes.barh(
            y,
            rate.value,
            height=0.66,
            color=_look(cell.method)["color"],
            hatch=hatches[cell.method.best_of],
            edgecolor="white",
            linewidth=0,
        )
        axes.errorbar(
            rate.value,
            y,
            xerr=[[rate.value - rate.low], [rate.high - rate.value]],
            color="black",
            capsize=3,
            linewidth=1.1,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        optimistic = evaluation.optimistic(cell.method)
        if optimistic is not None:
            axes.plot(
                optimistic, y, marker="D", color="white", markeredgecolor="black", markersize=6
            )
        if len(cell.rates) > 1:
            ys = np.full(len(cell.rates), y + 0.25)
            axes.plot(cell.rates, ys, "|", color="black", markersize=5)
    axes.set_yticks(range(len(cells)), [title(c) for c in cells])
    axes.invert_yaxis()
    axes.set_xlim(*_LIMITS)
    episodes = evaluation.settings.episodes * len(evaluation.checkpoints)
    heading = f"{evaluation.task}, {episodes} held-out episodes{_marks(evaluation)}"
    dress(axes, heading, "success, with 95% interval", "")
    axes.grid(axis="y", visible=False)
    return figure


def weights_figure(evaluation: Evaluation) -> Figure | None:
    """Success against weight on the selection episodes (Fig. 20); None when none was chosen."""
    if not evaluation.selection:
        return None
    figure = new_figure(7.6, 4.0)
    axes = figure.add_subplot()
    for cell in evaluation.selection:
        if cell.method.weighted:
            continue
        rate = cell.success
        look = {**_look(cell.method), "linestyle": _DASHES[_rank(evaluation, cell.method)]}
        axes.axhline(
            rate.value, color=look["color"], linestyle=look["linestyle"], label=cell.method.label
        )
        if cell.method == Method():
            axes.axhspan(rate.low, rate.high, color=look["color"], alpha=_BAND, linewidth=0)
    for method in evaluation.settings.methods:
        if not method.weighted:
            continue
        curve = evaluation.curve(method)
        positive = [c for c in curve if c.weight]
        x = np.array([c.weight for c in positive], dtype=float)
        rates = [c.success for c in positive]
        look = {**_look(method), "markersize": 5}
        if method.best_of > 1:
            look |= {"linestyle": (0, (4, 2)), "markerfacecolor": "white"}
        axes.plot(x, [r.value for r in rates], label=method.label, **look)
        if method.best_of == 1:
            # a band for each line would hide all of them
            low, high = [r.low for r in rates], [r.high for r in rates]
            axes.fill_between(x, low, high, color=look["color"], alpha=_BAND, linewidth=0)
    axes.set_xscale("log")
    axes.set_ylim(*_LIMITS)
    episodes = evaluation.settings.selection_episodes * len(evaluation.checkpoints)
    dress(
        axes,
        f"{evaluation.task}, {episodes} selection episodes",
        "guidance weight w",
        "success (band: 95%)",
    )
    legend_beside(axes)
    return figure


def calibration_figure(evaluation: Evaluation) -> Figure | None:
    """Realised return against predicted Q, one panel a method; None when no return is known."""
    curves = [(cell, calibration(chunks(cell))) for cell in evaluation.held_out]
    curves = [(cell, bins) for cell, bins in curves if bins]
    if not curves:
        return None
    ends = [v for _, bins in curves for b in bins for v in (b.predicted, *b.realised)]
    margin = 0.04 * (max(ends) - min(ends)) or 1.0
    span = (min(ends) - margin, max(ends) + margin)
    columns = min(3 if len(curves) > 4 else 2, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(2.6 * columns + 0.6, 2.5 * rows + 0.5)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    unguided = next((bins for cell, bins in curves if cell.method == Method()), None)
    for axes, (cell, bins) in zip(grid.flat, curves):
        axes.plot(span, span, color="black", linewidth=0.8, linestyle=":")
        if unguided is not None and cell.method != Method():
            _points(axes, unguided, {**style("none"), "alpha": 0.45})
        _points(axes, bins, _look(cell.method))
        dress(axes, title(cell), "", "")
        axes.set_xlim(*span)
        axes.set_ylim(*span)
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_visible(False)
    for axes in list(grid.flat)[len(curves) - columns : len(curves)]:
        axes.tick_params(labelbottom=True)  # also above a panel that is left out
    figure.supxlabel("Q predicted for the executed chunk", fontsize=10)
    figure.supylabel("discounted return that followed", fontsize=10)
    behind = "" if unguided is None else "; grey: behaviour cloning"
    figure.suptitle(
        f"{evaluation.task}: held-out chunks in bins by Q, 95% over episodes{behind}", fontsize=9
    )
    return figure


_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


def _points(axes: Any, bins: Sequence[Any], look: dict[str, Any]) -> None:
    rates = [b.realised for b in bins]
    error = [[r.value - r.low for r in rates], [r.high - r.value for r in rates]]
    axes.errorbar(
        [b.predicted for b in bins],
        [r.value for r in rates],
        yerr=error,
        capsize=2,
        elinewidth=0.9,
        **look,
    )


def _look(method: Method) -> dict[str, Any]:
    return style("none" if method.base == "bc" else method.base)


def _hatches(methods: Sequence[Method]) -> dict[int, str]:
    """A hatch for each N of best-of-N that occurs; none for N = 1."""
    draws = sorted({1, *(m.best_of for m in methods)})
    return {n: _HATCHES[min(i, len(_HATCHES) - 1)] for i, n in enumerate(draws)}


def _rank(evaluation: Evaluation, method: Method) -> int:
    own = sorted({m.best_of for m in evaluation.settings.methods if m.base == method.base} | {1})
    return min(own.index(method.best_of), len(_DASHES) - 1)


def _marks(evaluation: Evaluation) -> str:
    """A second line of the title on what else is drawn."""
    marks = []
    if evaluation.selection:
        marks.append("◇ optimistic: maximum over weights, selection episodes")
    if len(evaluation.checkpoints) > 1:
        marks.append("ticks: checkpoints")
    return "\n" + "; ".join(marks) if marks else ""
