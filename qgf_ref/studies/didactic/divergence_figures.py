"""The figure of BPTT's divergence (the paper's Figure 14)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.plotting import dress, new_figure, style
from qgf_ref.studies.didactic.divergence import Divergence

PURPLE, INDIGO, BLACK = "#CC79A7", "#332288", "#000000"
"""Of the fields: all curves of products are BPTT's."""
PATHS = 80
"""Paths drawn, at even quantiles of the noise, and all that end beyond FAR."""
FAR = 4.0


def divergence_figure(found: Divergence) -> Figure:
    """Products against the noise, their growth along t, guided paths, and peaks over separation."""
    figure = new_figure(11.0, 7.2)
    (by_noise, growth, separation), paths = figure.subplots(2, 3)
    _products(by_noise, growth, found)
    _peaks(separation, found)
    shown = (("exact", "bptt"), ("learned", "bptt"), ("learned", "qgf"))
    for (field, name), axes in zip(shown, paths, strict=True):
        _paths(axes, found, field, name)
    handles, labels = by_noise.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def _line(name: str, found: Divergence) -> dict[str, Any]:
    few = name.endswith(f"T = {found.steps}")
    return {
        "color": PURPLE if name.startswith("exact") else INDIGO,
        "linestyle": "-" if few else "--",
        "linewidth": 1.3,
    }


def _products(by_noise: Any, growth: Any, found: Divergence) -> None:
    by_noise.plot(*found.limit, color=BLACK, linestyle=":", linewidth=1.3, label="exact, T → ∞")
    for name, p in found.products.items():
        by_noise.plot(p.noise, abs(p.product), label=name, **_line(name, found))
        times = np.linspace(0, 1, len(p.growth))
        growth.plot(times, abs(p.growth), **_line(name, found))
    by_noise.set_yscale("log")
    growth.set_yscale("log")
    by_noise.set_ylim(1e-2, 1e10)
    dress(by_noise, "Product of all Jacobians (unguided)", "noise a_0", "|∂a_1/∂a_0|")
    dress(growth, "Its growth, from the worst a_0", "t", "|∂a_t/∂a_0|")


def _peaks(axes: Any, found: Divergence) -> None:
    looks = ({"linestyle": "-"}, {"linestyle": "--"}, {"linestyle": ":"})
    for (name, peaks), look in zip(found.peaks.items(), looks, strict=True):
        color = BLACK if "∞" in name else PURPLE
        axes.plot(*zip(*peaks, strict=True), color=color, marker="o", markersize=3, **look)
    axes.set_yscale("log")
    dress(axes, "Largest product, exact velocity", "mode separation (×)", "max |∂a_1/∂a_0|")


def _paths(axes: Any, found: Divergence, field: str, name: str) -> None:
    path = found.paths[field, name]
    row = next(r for r in found.rows if (r["field"], r["estimator"]) == (field, name))
    title = f"{name}, {field} velocity, w = {found.weight:g}"
    if path is None:
        axes.text(0.5, 0.5, "diverged", transform=axes.transAxes, ha="center")
    else:
        even = np.linspace(0, path.shape[1] - 1, PATHS).astype(int)
        far = np.flatnonzero(abs(path[-1]) > FAR)
        times = np.linspace(0, 1, len(path))
        axes.plot(times, path[:, even], color=style(name)["color"], linewidth=0.6, alpha=0.6)
        axes.plot(times, path[:, far], color=BLACK, linewidth=0.7, alpha=0.8)
        title += f"\nescaped {row['escaped']:.1%}, largest |a_t| {row['largest_a_t']:.3g}"
    axes.set_yscale("symlog", linthresh=3)
    axes.set_ylim(-500, 500)
    axes.set_yticks([-100, -10, 0, 10, 100], ["−100", "−10", "0", "10", "100"])
    dress(axes, title, "t", "a_t (linear within ±3)")
