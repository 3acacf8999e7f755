"""The figure of the study `q-optimizer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import banded_line, dress, legend_beside, reach, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.shared.figures import grid

_Q = "Q above behaviour cloning's"
_REFERENCES: dict[str, tuple[str, Any]] = {
    "bc": ("o", "-"),
    "bfn": ("*", (0, (4, 2))),
    "gradstep": ("P", (0, (1, 1.5))),
}
"""Marker, and dash of the line at the left, by the beginning of a method's label."""


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """Left: Q against w. Right: success against Q, each estimator's points joined along w, the
    marker growing with w.
    """
    figure, ((left, right),) = grid(1, 2, 3.7, 3.7)
    rows = tables[""]
    for name in distinct([r for r in rows if r["weight"] is not None], "method"):
        points = select(rows, method=name)
        look = style(name)
        x = [r["weight"] for r in points]
        banded_line(left, x, points, "gain", alpha=0.1, label=name, **look)
        q, y = [r["gain"] for r in points], [r["success"] for r in points]
        color = look["color"]
        right.plot(q, y, color=color, linestyle=look["linestyle"], linewidth=1, alpha=0.7)
        sizes = [10 + 50 * (i / max(len(q) - 1, 1)) for i in range(len(q))]
        right.scatter(q, y, s=sizes, color=color, marker=look["marker"], label=name, zorder=3)
    for r in select(rows, weight=None):
        _reference(left, right, r)
    dress(left, "Q of the final action, band: 95%", "guidance weight w", _Q, log="x")
    right.set_ylim(-0.03, 1.03)
    task = about["settings"]["task"]
    title = f"{task}\n{rows[0]['episodes']} episodes a point; marker grows with w"
    dress(right, title, _Q, "success rate")
    right.title.set_fontsize(8)
    legend_beside(right)
    return {"": figure}


def _reference(left: Any, right: Any, row: Mapping[str, Any]) -> None:
    """A method without a weight: a line at the left, a point with its intervals at the right."""
    label = row["method"].partition(" ")[0]
    base = label.partition("-")[0]
    marker, dash = _REFERENCES[base]
    color = style("gradstep" if base == "gradstep" else "none")["color"]
    left.axhline(row["gain"], color=color, linewidth=0.9, linestyle=dash)
    right.errorbar(
        row["gain"], row["success"], xerr=reach(row, "gain"), yerr=reach(row, "success"),
        color=color, marker=marker, markersize=9, markeredgecolor="black", markeredgewidth=0.8,
        elinewidth=0.8, linestyle="none", label=f"{label} (left: line)", zorder=4,
    )  # fmt: skip
