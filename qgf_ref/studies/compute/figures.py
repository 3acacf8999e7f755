"""The figure of the study `compute`: success against what an action costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress, legend_beside, reach, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.shared.figures import grid, plain_log

_COSTS = {
    "flops_nominal": (1e-6, "matrix products of one action chunk (MFLOP)"),
    "ms_numba": (1.0, "time of one action chunk (ms), numba"),
}
"""A column, its unit, and the axis' label."""


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """One panel for each cost, success with Wilson's interval, one line a family; the first and
    last point of a line bear their number.
    """
    rows = tables[""]
    figure, (panels,) = grid(1, len(_COSTS), 3.9, 3.9, 1.6, sharey=True)
    for axes, (column, (unit, label)) in zip(panels, _COSTS.items(), strict=True):
        for family in distinct(rows, "family"):
            known = [r for r in select(rows, family=family) if r[column] is not None]
            _family(axes, family, sorted(known, key=lambda r: r["number"]), column, unit)
        dress(axes, "", label, "", log="x")
        plain_log(axes.xaxis)
        axes.set_ylim(-0.03, 1.05)
    panels[0].set_ylabel("success rate, with 95% interval")
    panels[0].set_title(
        f"{about['settings']['task']}, {rows[0]['episodes']} held-out episodes a point; "
        "numbers: N, L or T",
        fontsize=9,
        loc="left",
    )
    legend_beside(panels[-1])
    return {"": figure}


def _family(axes: Any, family: str, rows: Rows, column: str, unit: float) -> None:
    if not rows:
        return
    look = _look(rows[0]["method"])
    x, y = [unit * r[column] for r in rows], [r["success"] for r in rows]
    ends = [reach(r, "success") for r in rows]
    bars = [[low for (low,), _ in ends], [high for _, (high,) in ends]]
    axes.errorbar(x, y, yerr=bars, label=family, elinewidth=0.6, capsize=0, **look)
    for i in {0, len(rows) - 1}:
        axes.annotate(
            rows[i]["number"], (x[i], y[i]), xytext=(5, -11), textcoords="offset points",
            fontsize=7.5, color=look["color"],
        )  # fmt: skip


def _look(method: str) -> dict[str, Any]:
    """That of the estimator; guided best-of-N is dashed."""
    base, _, draws = method.partition(" ")[0].partition("+bfn-")
    look = style("none" if base == "bc" or base.startswith("bfn-") else base)
    if draws:
        look |= {"linestyle": (0, (4, 2)), "markerfacecolor": "white"}
    return look
