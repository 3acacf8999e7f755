"""The figures of the study `weights`: one panel an estimator, and all in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.plotting import banded_line, dress, legend_beside, new_figure, reach, style
from qgf_ref.studies.base import Rows, select
from qgf_ref.studies.shared.figures import grid, lines

NAMED = ("ood", "qgf", "qgf_jacobian", "bptt", "qgf_chain")
"""Of the figure with all: the paper's. The others are grey where there are many."""
_LIMITS = (-0.04, 1.06)
_BC = "bc"


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "" and "overview"."""
    success = select(tables[""], checkpoint="all")
    task = about["settings"]["task"]
    chosen = tuple(about["settings"]["estimators"] or ())
    return {
        "": _panels(task, success, tables["summary"]),
        "overview": _overview(task, select(success, split=SELECTION), chosen),
    }


def _panels(task: str, success: Rows, summary: Rows) -> Figure:
    """Success (selection episodes, Wilson's band) against w; BC grey; plateau at the bottom; ◇ the
    chosen weight on held-out episodes, with its interval.
    """
    curves, held_out = select(success, split=SELECTION), select(success, split=HELD_OUT)
    columns = min(4, len(summary))
    figure, panels = grid(-(-len(summary) // columns), columns, 1.9, 1.9, 0.5, sharey=True)
    for axes, row in zip(panels.flat, summary):
        name = row["estimator"]
        look = {**style(name), "linestyle": "-"}
        _unguided(axes, curves, 0.18)
        curve = [r for r in select(curves, method=name) if r["weight"]]
        banded_line(axes, [r["weight"] for r in curve], curve, "success", alpha=0.2, **look)
        plateau = row["plateau_low"], row["plateau_high"]
        axes.plot(plateau, (0, 0), color=look["color"], linewidth=4, alpha=0.6)
        axes.errorbar(
            row["chosen_weight"], row["success"], yerr=reach(row, "success"), marker="D",
            markersize=5, markerfacecolor="white", color="black", capsize=2, linewidth=1, zorder=4,
        )  # fmt: skip
        dress(axes, name, "", "", log="x")
        axes.set_ylim(*_LIMITS)
        axes.title.set_fontsize(8.5)
    for axes in panels.flat[len(summary) :]:
        axes.set_visible(False)
    figure.supxlabel("guidance weight w", fontsize=10)
    figure.supylabel("success rate", fontsize=10)
    figure.suptitle(
        f"{task}: {curves[0]['episodes']} selection episodes a weight, band: 95%; bar: plateau;\n"
        f"◇ {held_out[0]['episodes']} held-out episodes at the chosen w; grey: behaviour cloning",
        fontsize=9,
    )
    return figure


def _unguided(axes: Any, curves: Rows, alpha: float) -> None:
    """BC: a grey line and band, the same at every w."""
    color = style("none")["color"]
    for bc in select(curves, method=_BC):
        axes.axhline(bc["success"], color=color, linewidth=1.0, label="bc")
        ends = bc["success_low"], bc["success_high"]
        axes.axhspan(*ends, color=color, alpha=alpha, linewidth=0)


def _overview(task: str, curves: Rows, chosen: tuple[str, ...]) -> Figure:
    figure = new_figure(7.6, 4.0)
    axes = figure.add_subplot()
    _unguided(axes, curves, 0.1)
    guided = [r for r in curves if r["method"] != _BC and r["weight"]]
    lines(axes, guided, "weight", by="method", y="success", focus=(*NAMED, *chosen), alpha=0.1)
    title = f"{task}, {curves[0]['episodes']} selection episodes"
    dress(axes, title, "guidance weight w", "success (band: 95%)", log="x")
    axes.set_ylim(*_LIMITS)
    legend_beside(axes)
    return figure
