"""The figures of the study of distances: every measure against w, and distance against Q."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress, legend_beside, new_figure, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.ood_distance.data_actions import NEAR_STATES
from qgf_ref.studies.ood_distance.words import BC, BFN, DATA, DRAWS, means
from qgf_ref.studies.shared.figures import grid, legend, lines

LABELS = {
    "oracle": f"L2 distance to the best of {DRAWS}",
    "data": "L2 distance to the nearest data chunk",
    "local": f"… among the {NEAR_STATES} nearest states",
    "q": "Q of the action (discounted return)",
}


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "" every measure against w, and "against_q"."""
    return {"": _by_weight(tables[""]), "against_q": _against_q(tables[""])}


def _by_weight(table: Rows) -> Figure:
    figure, panels = grid(2, 2, 4.4, 3.0)
    guided = [r for r in table if r["weight"] is not None]
    for axes, (measure, label) in zip(panels.flat, LABELS.items(), strict=True):
        lines(axes, select(guided, measure=measure), "weight")
        for name, title, dash in ((BC, "BC", "-"), (BFN, BFN, "--"), (DATA, DATA, ":")):
            color = "#000000" if name == DATA else style("none")["color"]
            for r in select(table, estimator=name, measure=measure):
                axes.axhline(r["value"], color=color, linestyle=dash, linewidth=1.2, label=title)
        dress(axes, "", "guidance weight w", label, log="x")
    legend(figure, panels[0, 1])
    return figure


def _against_q(table: Rows) -> Figure:
    """Distance against Q, with the weight as parameter: the comparison at equal Q."""
    at = means(table)
    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    guided = [r for r in table if r["weight"] is not None]
    for name in distinct(guided, "estimator"):
        keys = [(BC, None), *((name, w) for w in distinct(guided, "weight"))]
        points = [(at[n, w, "q"].value, at[n, w, "data"].value) for n, w in keys]
        axes.plot(*zip(*points, strict=True), label=name, **style(name))
    for name, label, marker in ((BC, "BC", "o"), (BFN, BFN, "*")):
        point = (at[name, None, measure].value for measure in ("q", "data"))
        axes.plot(*point, marker=marker, color="black", linestyle="", label=label, zorder=5)
    dress(axes, "one point a weight, from BC on", LABELS["q"], LABELS["data"])
    legend_beside(axes)
    return figure
