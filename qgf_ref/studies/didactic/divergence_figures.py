"""The figure of BPTT's divergence (the paper's Figure 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from qgf_ref.plotting import dress, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.didactic.divergence import DRAWN, LIMIT
from qgf_ref.studies.shared.figures import grid, legend

PURPLE, INDIGO, BLACK = "#CC79A7", "#332288", "#000000"
"""Of the fields: all curves of products are BPTT's."""


def divergence_figure(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> Figure:
    """Products against the noise, their growth along t, guided paths, and peaks over separation."""
    figure, ((by_noise, growth, separation), paths) = grid(2, 3, 3.7, 3.4, 0)
    few = f"T = {about['T']}"
    _products(by_noise, growth, tables, few)
    _peaks(separation, about["largest_product_over_separation"])
    for (field, name), axes in zip(DRAWN, paths, strict=True):
        where = {"field": field, "estimator": name}
        _paths(axes, select(tables["escaping_paths"], **where), style(name)["color"])
        title = f"{name}, {field} velocity, w = {about['weight']:g}"
        (row,) = select(tables["divergence"], **where)
        if not row["diverged"]:
            title += f"\nescaped {row['escaped']:.1%}, largest |a_t| {row['largest_a_t']:.3g}"
        dress(axes, title, "t", "a_t (linear within ±3)")
    legend(figure, by_noise, loc="outside lower center", ncols=5)
    return figure


def _line(name: str, few: str) -> dict[str, Any]:
    if name == LIMIT:
        return {"color": BLACK, "linestyle": ":", "linewidth": 1.3}
    return {
        "color": PURPLE if name.startswith("exact") else INDIGO,
        "linestyle": "-" if name.endswith(few) else "--",
        "linewidth": 1.3,
    }


def _products(by_noise: Any, growth: Any, tables: Mapping[str, Rows], few: str) -> None:
    products = tables["products"]
    for name in (LIMIT, *(n for n in products[0] if n not in ("noise", LIMIT))):
        points = [(r["noise"], r[name]) for r in products if r[name] is not None]
        by_noise.plot(*zip(*points, strict=True), label=name, **_line(name, few))
    for name in distinct(tables["growth"], "series"):
        points = [(r["t"], r["growth"]) for r in select(tables["growth"], series=name)]
        growth.plot(*zip(*points, strict=True), **_line(name, few))
    by_noise.set_yscale("log")
    growth.set_yscale("log")
    by_noise.set_ylim(1e-2, 1e10)
    dress(by_noise, "Product of all Jacobians (unguided)", "noise a_0", "|∂a_1/∂a_0|")
    dress(growth, "Its growth, from the worst a_0", "t", "|∂a_t/∂a_0|")


def _peaks(axes: Any, peaks_by_steps: Mapping[str, Any]) -> None:
    looks = ({"linestyle": "-"}, {"linestyle": "--"}, {"linestyle": ":"})
    for (name, peaks), look in zip(peaks_by_steps.items(), looks, strict=True):
        color = BLACK if "∞" in name else PURPLE
        axes.plot(*zip(*peaks, strict=True), color=color, marker="o", markersize=3, **look)
    axes.set_yscale("log")
    dress(axes, "Largest product, exact velocity", "mode separation (×)", "max |∂a_1/∂a_0|")


def _paths(axes: Any, rows: Rows, color: str) -> None:
    times = [r["t"] for r in rows]
    for column in rows[0] if rows else ():
        far = column.startswith("far")
        if far or column.startswith("path"):
            look = (
                {"color": BLACK, "linewidth": 0.7, "alpha": 0.8, "zorder": 3}
                if far
                else {"color": color, "linewidth": 0.6, "alpha": 0.6}
            )
            axes.plot(times, [r[column] for r in rows], **look)
    if not rows:
        axes.text(0.5, 0.5, "diverged", transform=axes.transAxes, ha="center")
    axes.set_yscale("symlog", linthresh=3)
    axes.set_ylim(-500, 500)
    axes.set_yticks([-100, -10, 0, 10, 100], ["−100", "−10", "0", "10", "100"])
