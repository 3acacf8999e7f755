"""The figure of the study `q-optimizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.plotting import dress, legend_beside, new_figure, style
from qgf_ref.studies.q_optimizer.points import Point

_Q = "Q above behaviour cloning's"
_REFERENCE = {"bc": "o", "bfn-16": "*", "gradstep": "P"}


def scatter(
    task: str,
    curves: Mapping[Method, Sequence[Point]],
    alone: Sequence[Point],
    episodes: int,
) -> Figure:
    """Left: Q against w. Right: success against Q, each estimator's points joined along w, the
    marker growing with w.
    """
    figure = new_figure(9.2, 4.0)
    left, right = figure.subplots(1, 2)
    for method, points in curves.items():
        look = style(method.label)
        x = [p.cell.weight for p in points]
        q = [p.gain.value for p in points]
        left.plot(x, q, label=method.label, **look)
        color = look["color"]
        ends = [p.gain.low for p in points], [p.gain.high for p in points]
        left.fill_between(x, *ends, color=color, alpha=0.1, linewidth=0)
        y = [p.cell.success.value for p in points]
        right.plot(q, y, color=color, linestyle=look["linestyle"], linewidth=1, alpha=0.7)
        sizes = [10 + 50 * (i / max(len(q) - 1, 1)) for i in range(len(q))]
        right.scatter(
            q, y, s=sizes, color=color, marker=look["marker"], label=method.label, zorder=3
        )
    for p in alone:
        look = style("gradstep" if p.method.base == "gradstep" else "none")
        left.axhline(p.gain.value, color=look["color"], linewidth=0.9, linestyle=_dash(p.method))
        rate = p.cell.success
        right.errorbar(
            p.gain.value,
            rate.value,
            xerr=_bar(p.gain),
            yerr=_bar(rate),
            color=look["color"],
            marker=_REFERENCE.get(p.method.label, "o"),
            markersize=9,
            markeredgecolor="black",
            markeredgewidth=0.8,
            elinewidth=0.8,
            linestyle="none",
            label=f"{p.method.label} (left: line)",
            zorder=4,
        )
    left.set_xscale("log")
    dress(left, "Q of the final action, band: 95%", "guidance weight w", _Q)
    right.set_ylim(-0.03, 1.03)
    title = f"{task}\n{episodes} episodes a point; marker grows with w"
    dress(right, title, _Q, "success rate")
    right.title.set_fontsize(8)
    legend_beside(right)
    return figure


def _dash(method: Method) -> Any:
    return "-" if method == Method() else (0, (4, 2)) if method.best_of > 1 else (0, (1, 1.5))


def _bar(e: Estimate) -> list[list[float]]:
    return [[e.value - e.low], [e.high - e.value]]
