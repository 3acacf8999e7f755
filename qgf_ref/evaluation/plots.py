"""Figures of an evaluation. A method has its estimator's colour; best-of-N is hatched or dashed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_ref.evaluation.critic_error import calibration, chunks
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Evaluation
from qgf_ref.plotting import (
    GREY,
    Figure,
    banded_line,
    dress,
    legend_beside,
    new_figure,
    reach,
    style,
)

_HATCHES = ("", "//", "xx", "..", "\\\\", "++")
_BAND = 0.1
_LIMITS = (-0.02, 1.02)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_BC = Method().label


def title(label: str, weight: float | None) -> str:
    """The method, and its weight if it has one."""
    return label if weight is None else f"{label}  w={weight:g}"


def success_figure(about: Mapping[str, Any]) -> Figure:
    """Held-out success of every method at its chosen weight, with 95% intervals.

    about  `qgf_ref.evaluation.report.summary`, or evaluation.json as it was written
    """
    from matplotlib.patheffects import withStroke

    rows = about["rows"]
    figure = new_figure(7.2, 1.5 + 0.36 * len(rows))
    axes = figure.add_subplot()
    success_bars(axes, rows)
    for y, row in enumerate(rows):
        axes.errorbar(
            row["success"], y, xerr=reach(row, "success"), color="black", capsize=3, linewidth=1.1,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        if row["optimistic"] is not None and about["selection"]:
            axes.plot(
                row["optimistic"], y, "D", color="white", markeredgecolor="black", markersize=6
            )
        rates = row["by_checkpoint"]
        if len(rates) > 1:
            axes.plot(rates, np.full(len(rates), y + 0.25), "|", color="black", markersize=5)
    axes.set_yticks(range(len(rows)), [title(r["method"], r["weight"]) for r in rows])
    heading = f"{about['task']}, {_episodes(about, 'episodes')} held-out episodes{_marks(about)}"
    dress(axes, heading, "success, with 95% interval", "")
    axes.grid(axis="y", visible=False)
    return figure


def success_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each row, from above, without intervals: its method's colour, and hatch by N."""
    hatches = _by_draws(rows, _HATCHES)
    for y, row in enumerate(rows):
        base, draws = base_and_draws(row["method"])
        color = style(base)["color"]
        color = GREY if color == "#000000" else color  # intervals over it are black
        axes.barh(
            y, row["success"], height=0.66, color=color, hatch=hatches[draws],
            edgecolor="white", linewidth=0,
        )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(*_LIMITS)


def weights_figure(about: Mapping[str, Any]) -> Figure | None:
    """Success against weight on the selection episodes (Fig. 20), of a summary as
    `success_figure` has it; None when no weight was chosen.
    """
    selection = about["selection"]
    if not selection:
        return None
    figure = new_figure(7.6, 4.0)
    axes = figure.add_subplot()
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in selection:
        by_method.setdefault(row["method"], []).append(row)
    for label, curve in by_method.items():
        base, draws = base_and_draws(label)
        look = {**style(base), "label": label}
        if curve[0]["weight"] is None:
            alike = [r for r in about["rows"] if base_and_draws(r["method"])[0] == base]
            (row,), dash = curve, _by_draws(alike, _DASHES)[draws]
            axes.axhline(row["success"], color=look["color"], linestyle=dash, label=label)
            if label == _BC:
                ends = row["success_low"], row["success_high"]
                axes.axhspan(*ends, color=look["color"], alpha=_BAND, linewidth=0)
            continue
        look["markersize"] = 5
        if draws > 1:
            look |= {"linestyle": (0, (4, 2)), "markerfacecolor": "white"}
        positive = sorted((r for r in curve if r["weight"]), key=lambda r: float(r["weight"]))
        x = [r["weight"] for r in positive]
        # a band for each line would hide all of them
        banded_line(axes, x, positive, "success", alpha=_BAND, band=draws == 1, **look)
    heading = f"{about['task']}, {_episodes(about, 'selection_episodes')} selection episodes"
    dress(axes, heading, "guidance weight w", "success (band: 95%)", log="x")
    axes.set_ylim(*_LIMITS)
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
        _points(axes, bins, style(base_and_draws(cell.method.label)[0]))
        dress(axes, title(cell.method.label, cell.weight), "", "")
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
        f"{evaluation.task}\nheld-out chunks in bins by Q, 95% over episodes{behind}", fontsize=9
    )
    return figure


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


def base_and_draws(label: str) -> tuple[str, int]:
    """What gives a method its colour ("none" for behaviour cloning), and N of best-of-N."""
    match = re.fullmatch(r"(?:(.*)\+)?bfn-(\d+)", label)
    base, draws = match.groups() if match else (label, 1)
    return "none" if base in (None, _BC) else base, int(draws)


def _by_draws(rows: Sequence[Mapping[str, Any]], looks: Sequence[Any]) -> dict[int, Any]:
    """A look for each N of best-of-N that occurs; the first for N = 1."""
    draws = sorted({1, *(base_and_draws(r["method"])[1] for r in rows)})
    return {n: looks[min(i, len(looks) - 1)] for i, n in enumerate(draws)}


def _episodes(about: Mapping[str, Any], split: str) -> int:
    """Of all checkpoints."""
    return int(about["settings"][split]) * len(about["checkpoints"])


def _marks(about: Mapping[str, Any]) -> str:
    """A second line of the title on what else is drawn."""
    marks = []
    if about["selection"]:
        marks.append("◇ optimistic: maximum over weights, selection episodes")
    if len(about["checkpoints"]) > 1:
        marks.append("ticks: checkpoints")
    return "\n" + "; ".join(marks) if marks else ""
