"""The figure of the correction study: distance to the exact law against w."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.plotting import dress, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.correction.scenes import FREE_TIME, MORE_STEPS, STEPS
from qgf_ref.studies.shared.figures import grid, legend, plain_log

CONDITIONS = {"exact": "exact v and Q", "both wrong": "v and Q wrong"}


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """ "distance": a row for each scene; exact networks at the left, wrong ones at the right."""
    rows = select(tables[""], T=STEPS)
    scenes, names = distinct(rows, "scene"), distinct(rows, "estimator")
    figure, panels = grid(len(scenes), len(CONDITIONS), 3.4, 2.1, 2.2, sharex=True)
    for row, scene in zip(panels, scenes, strict=True):
        for axes, (condition, title) in zip(row, CONDITIONS.items(), strict=True):
            here = select(rows, scene=scene, condition=condition)
            for name in names:
                points = _means(select(here, estimator=name))
                if points:
                    label = name.replace(FREE_TIME, "… with free t′")
                    axes.plot(*zip(*points, strict=True), **_look(name), label=label)
            unit = "W1" if scene.startswith("1-D") else "sliced W1"
            dress(axes, f"{scene}, {title}", "", f"{unit} to the exact law", log="xy")
            plain_log(axes.yaxis)
            axes.minorticks_off()
    for axes in panels[-1]:
        axes.set_xlabel("guidance weight w")
    legend(figure, panels[0, 0])
    return {"distance": figure}


def _look(name: str) -> dict[str, Any]:
    finer = {FREE_TIME: "qgf_shifted_taylor", MORE_STEPS: "qgf"}
    if name in finer:
        return {**style(finer[name]), "linestyle": ":"}
    return style(name)


def _means(rows: Rows) -> list[tuple[float, float]]:
    """(w, mean distance over draws), without the weights at which it diverged."""
    by_weight = {
        w: [r["distance"] for r in select(rows, weight=w)] for w in distinct(rows, "weight")
    }
    return [(w, float(np.mean(ds))) for w, ds in by_weight.items() if None not in ds]
