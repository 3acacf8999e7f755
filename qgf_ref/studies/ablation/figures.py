"""The ablation's figures: closed form, gradients along the BC chain, success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.plotting import banded_line, dress, legend_beside, reach, style
from qgf_ref.studies.ablation.factors import BOTH, FOUR, HEADS, JACOBIAN, MASK
from qgf_ref.studies.ablation.words import TITLES
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.shared.figures import grid, legend, lines


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "closed_form", "gradients" and "success"."""
    return {
        "closed_form": _closed_form(tables["closed_form"]),
        "gradients": _gradients(tables["gradients"]),
        "success": _success(tables[""]),
    }


def _closed_form(exact: Rows) -> Figure:
    dimensions = distinct(exact, "n")
    percent = [{**r, "clipped": 100 * r["clipped"]} for r in exact]
    figure, panels = grid(len(dimensions), len(TITLES), 3.1, 2.7, sharex=True)
    for row, n in zip(panels, dimensions, strict=True):
        for axes, (measure, title) in zip(row, TITLES.items(), strict=True):
            here = select(percent, n=n, measure=measure)
            names = (*FOUR, "none") if measure == "distance" else FOUR
            lines(axes, here, "clipped", by="term", names=names)
            # the bands of few scenes are wider than all that there is to see
            axes.set_ylim(0, 1.5 * max(max(line.get_ydata()) for line in axes.lines))
            last = n == dimensions[-1]
            dress(axes, f"n = {n}", "clipped coordinates of â₁ (%)" if last else "", title)
            axes.yaxis.label.set_size(8)
    legend(figure, panels[0, -1])
    return figure


def _gradients(trained: Rows) -> Figure:
    figure, ((share, change, variance),) = grid(1, 3, 3.1, 3.1)
    timed = [r for r in trained if r["time"] != "all"]
    clipped = [
        {k: 100 * v if k in ("value", "low", "high") else v for k, v in r.items()}
        for r in select(timed, measure="clipped")
    ]
    banded_line(share, [r["time"] for r in clipped], clipped, **style("none"))
    share.set_ylim(bottom=0)
    dress(share, "", "t", "clipped coordinates of â₁ (%)")
    differing = (MASK, JACOBIAN, BOTH)
    lines(change, select(timed, measure="change"), "time", by="term", names=differing)
    dress(change, "", "t", "‖G − G_qgf‖ / ‖G_qgf‖")
    lines(variance, select(timed, measure="variance"), "time", by="term", names=FOUR)
    dress(variance, "", "t", "variance of G / ‖G‖² at σ = 0.1", log="y")
    legend_beside(variance)
    return figure


def _success(played: Rows) -> Figure:
    figure, ((curve, bars),) = grid(1, 2, 4.1, 3.3)
    lines(curve, select(played, split=SELECTION), "weight", by="term", names=FOUR)
    for i, name in enumerate(FOUR):
        row = select(played, split=HELD_OUT, term=name)[0]
        look = {**style(name), "linestyle": "", "label": name}
        bars.errorbar(i, row["value"], yerr=reach(row), capsize=4, **look)
    dress(curve, "selection episodes (band: 95%)", "guidance weight w", "success", log="x")
    dress(bars, "held-out episodes, at the chosen weight", "", "success (95% interval)")
    bars.set_xticks(range(len(FOUR)), [HEADS[name] for name in FOUR])
    for axes in (curve, bars):
        axes.set_ylim(-0.02, 1.04)
    legend_beside(bars)
    return figure
