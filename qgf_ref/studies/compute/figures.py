"""The figure of the study `compute`: success against what an action costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from qgf_ref.plotting import dress, legend_beside, new_figure, style
from qgf_ref.studies.compute.points import Cost, Point

_LABELS = {
    "FLOPs": "matrix products of one action chunk (MFLOP)",
    "ms (numba)": "time of one action chunk (ms), numba",
}


def panels(
    task: str,
    points: Sequence[Point],
    costs: Mapping[str, Cost],
) -> Figure:
    """One panel for each cost, success with Wilson's interval, one line a family; the first and
    last point of a line bear their number.
    """
    figure = new_figure(9.4, 4.2)
    every = figure.subplots(1, len(costs), sharey=True)
    families = list(dict.fromkeys(p.family for p in points))
    for axes, (name, cost) in zip(every, costs.items(), strict=True):
        for family in families:
            own = [(c, p) for p in points if p.family == family and (c := cost(p)) is not None]
            if not own:
                continue
            own.sort(key=lambda pair: pair[1].number)
            look = _look(own[0][1])
            rates = [p.cell.success for _, p in own]
            x = [c for c, _ in own]
            low = [r.value - r.low for r in rates]
            high = [r.high - r.value for r in rates]
            axes.errorbar(
                x,
                [r.value for r in rates],
                yerr=[low, high],
                label=family,
                elinewidth=0.6,
                capsize=0,
                **look,
            )
            for at in {0, len(own) - 1}:
                axes.annotate(
                    own[at][1].number,
                    (x[at], rates[at].value),
                    xytext=(5, -11),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=look["color"],
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-0.03, 1.05)
        dress(axes, "", _LABELS[name], "")
    every[0].set_ylabel("success rate, with 95% interval")
    episodes = len(points[0].cell.episodes)
    every[0].set_title(
        f"{task}, {episodes} held-out episodes a point; numbers: N, L or T",
        fontsize=9,
        loc="left",
    )
    legend_beside(every[-1])
    return figure


def _look(point: Point) -> dict[str, Any]:
    method = point.cell.method
    look = style("none" if method.base == "bc" else method.base)
    if method.weighted and method.best_of > 1:
        look |= {"linestyle": (0, (4, 2)), "markerfacecolor": "white"}
    return look
