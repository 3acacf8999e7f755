"""The figure of the prefix study: distance to the exact law against T."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.shared.figures import grid, legend, ticks

COLOUR_OF = {"cut at 5": "bptt", "cut at 10": "qgf", "not cut": "ood"}
"""Whose colour a line has, by where its weight is cut; solid with the Jacobian, dashed without."""


def _look(label: str) -> dict[str, Any]:
    cut = next((words for words in COLOUR_OF if words in label), None)
    if cut is None:
        return style(label.split(",")[0])
    return {**style(COLOUR_OF[cut]), "linestyle": "-" if label.startswith("J") else "--"}


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "": a panel for each law, a line for each kind of guidance."""
    rows = tables[""]
    laws = distinct(rows, "law")
    figure, panels = grid(1, len(laws), 2.8, 2.4, 2.4, sharey=True)
    for axes, law in zip(panels[0], laws, strict=True):
        for label in distinct(rows, "estimator"):
            mine = select(rows, law=law, estimator=label)
            axes.plot([r["T"] for r in mine], [r["w2"] for r in mine], **_look(label), label=label)
        dress(axes, law, "Euler steps T", "W2 to the exact law", log="xy")
        ticks(axes.xaxis, distinct(rows, "T"))
    legend(figure, panels[0, 0])
    return {"": figure}
