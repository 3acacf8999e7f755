"""The didactic study's figures: the paper's Figures 2 and 14, densities, curves of distance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.plotting import dress, new_figure, style
from qgf_ref.studies.base import Rows, distinct, select
from qgf_ref.studies.didactic.divergence import DRAWN, LIMIT
from qgf_ref.studies.didactic.runs import BIN_NAMES, BINS, EXACT_LAW, RANGE, panel_columns
from qgf_ref.studies.shared.figures import grid, legend, looks
from qgf_ref.studies.shared.scenes import FORMULAS

METRICS = {"w1": "W1 to exact π (action units)", "kl": "KL(ρ ‖ π) (nats)"}
AXES = {
    "weight": ("weight", "guidance weight w"),
    "steps": ("T", "denoising steps T"),
    "separation": ("separation", "mode separation (×)"),
}
"""A column of the laws, and the axis' label."""
HIGHEST_W1 = 10.0
"""Where the axis ends: farther than that, actions are nowhere near the data."""

PURPLE, INDIGO, BLACK = "#CC79A7", "#332288", "#000000"
"""Of the fields: all curves of products are BPTT's."""


def figures(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> dict[str, Figure]:
    """Curves over each of AXES in each of METRICS, divergence, panels and densities."""
    run = about["grid"]
    drawn = {
        f"{over}_{metric}": _curves(tables[""], metric, over, run)
        for over, metric in product(AXES, METRICS)
    }
    drawn["divergence"] = _divergence(tables, about["divergence"])
    for field in ("exact", "learned"):
        if select(tables["paths"], field=field):
            drawn[f"panels_{field}"] = _panels(tables, field, run)
    for critic in FORMULAS:
        drawn[f"densities_{critic}"] = _densities(tables, critic, run)
    return drawn


def _curves(laws: Rows, metric: str, over: str, run: Mapping[str, Any]) -> Figure:
    """A metric of every estimator over one axis: a column for each critic, a row for each field
    and T. Where a sampler diverged the curve has a gap and a × at the top; beyond the axis, a ▲.
    """
    few, many = run["few"], run["many"]
    settings: list[tuple[str, int | None]] = {
        "weight": [("exact", many), ("exact", few), ("learned", few)],
        "steps": [("exact", None), ("learned", None)],
        "separation": [("exact", many)],
    }[over]
    fixed = {"weight": run["middle"], "separation": 1.0, "T": None}
    fixed.pop(AXES[over][0])
    figure, panels = grid(len(settings), len(FORMULAS), 3.1, 2.5, 1.7, sharex=True, sharey="row")
    for (i, (field, steps)), (j, critic) in product(enumerate(settings), enumerate(FORMULAS)):
        axes = panels[i, j]
        where = {k: v for k, v in {**fixed, "T": steps}.items() if v is not None}
        _estimators(axes, select(laws, field=field, critic=critic, **where), metric, over)
        how = "" if steps is None else f", T = {steps}"
        at = "" if over == "weight" else f", w = {run['middle']:g}"
        title = f"{FORMULAS[critic]}\n{field} velocity{how}{at}"
        x = AXES[over][1] if i == len(settings) - 1 else ""
        dress(axes, title, x, METRICS[metric] if j == 0 else "")
    legend(figure, panels[0, 0])
    return figure


def _estimators(axes: Any, laws: Rows, metric: str, over: str) -> None:
    column = AXES[over][0]
    highest = HIGHEST_W1 if metric == "w1" else np.inf
    for name, look in looks(distinct(laws, "estimator")).items():
        points = sorted((r[column], r[metric]) for r in select(laws, estimator=name))
        axes.plot([x for x, _ in points], [np.nan if y is None else y for _, y in points], **look)
        for x, y in points:
            if y is None or y > highest:
                marker, height = ("x", 0.97) if y is None else ("^", 0.93)
                axes.plot(
                    x, height, transform=axes.get_xaxis_transform(), marker=marker,
                    color=look["color"], clip_on=False,
                )  # fmt: skip
    if over != "separation":
        axes.set_xscale("log")
        ticks = [0.1, 1, 10] if over == "weight" else [1, 10, 100]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_yscale("log")
    if metric == "w1" and any((r["w1"] or 0) > highest for r in laws):
        axes.set_ylim(top=highest)


def _panels(tables: Mapping[str, Rows], field: str, run: Mapping[str, Any]) -> Figure:
    """The paper's Figure 2: paths of a_t, and the final density beside the exact one (grey).

    A column for each estimator, a row for each weight; Q = −|a − a*|.
    """
    laws = select(tables[""], field=field, critic="distance", T=run["many"], separation=1.0)
    names = panel_columns(distinct(laws, "estimator"))
    weights = run["panels"]
    figure = new_figure(12.0, 2.6 * len(weights))
    cells = figure.add_gridspec(len(weights), 2 * len(names), width_ratios=[3, 1.2] * len(names))
    for (i, weight), (j, name) in product(enumerate(weights), enumerate(names)):
        left = figure.add_subplot(cells[i, 2 * j])
        right = figure.add_subplot(cells[i, 2 * j + 1], sharey=left)
        (law,) = select(laws, estimator=name, weight=weight)
        paths = select(tables["paths"], field=field, estimator=name, weight=weight)
        _paths(left, paths, style(name)["color"])
        where = {"critic": "distance", "weight": weight}
        _density(right, tables["densities"], name, "horizontal", field=field, **where)
        w1 = "diverged" if law["w1"] is None else f"W1 {law['w1']:.3f}"
        last = i == len(weights) - 1
        title = f"{_title(name)}, w = {weight:g}: {w1}"
        dress(left, title, "t" if last else "", "" if j else "a_t")
        dress(right, "", "density" if last else "", "")
        left.set_ylim(RANGE)
        right.tick_params(labelleft=False)
    figure.suptitle(
        f"Q = −|a − a*|, a* = 1; {field} velocity, T = {run['many']}; grey: exact π", fontsize=11
    )
    return figure


def _paths(axes: Any, rows: Rows, color: str) -> None:
    if not rows:
        axes.text(0.5, 0.5, "diverged", transform=axes.transAxes, ha="center")
        return
    a_t = np.array([[x for c, x in r.items() if c.startswith("path")] for r in rows])
    axes.plot([r["t"] for r in rows], a_t, color=color, linewidth=0.6, alpha=0.7)
    outside = int(((a_t < RANGE[0]) | (a_t > RANGE[1])).any(axis=0).sum())
    if outside:
        axes.text(
            0.03, 0.03, f"{outside} of {a_t.shape[1]} leave the panel", fontsize=7,
            transform=axes.transAxes, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _density(axes: Any, densities: Rows, name: str, orientation: str, **where: Any) -> float:
    """Histograms of the exact law, filled in grey, and of the estimator's, a line; returns the
    share of its actions outside RANGE.
    """
    width = BINS[1] - BINS[0]
    truth = select(densities, **{**where, "field": None, "estimator": EXACT_LAW})
    drawn = [(row, {"fill": True, "color": "#C8C8C8"}) for row in truth]
    look = {"color": style(name)["color"], "linewidth": 1.2}
    mine = select(densities, estimator=name, **where)
    for row, how in [*drawn, *((row, look) for row in mine)]:
        shares = np.array([row[b] for b in BIN_NAMES])
        axes.stairs(shares / width, BINS, orientation=orientation, **how)
    return 1 - sum(mine[0][b] for b in BIN_NAMES) if mine else 0.0


def _densities(tables: Mapping[str, Rows], critic: str, run: Mapping[str, Any]) -> Figure:
    """The final density of every estimator beside the exact one, exact velocity, T = many."""
    laws = select(tables[""], field="exact", critic=critic, T=run["many"], separation=1.0)
    names = distinct(laws, "estimator")
    figure, cells = grid(len(names), len(run["panels"]), 3.0, 1.05, 0, sharex=True, sharey="col")
    for (i, name), (j, weight) in product(enumerate(names), enumerate(run["panels"])):
        axes = cells[i, j]
        where = {"field": "exact", "critic": critic, "weight": weight}
        outside = _density(axes, tables["densities"], name, "vertical", **where)
        (law,) = select(laws, estimator=name, weight=weight)
        text = "diverged" if law["w1"] is None else f"W1 {law['w1']:.3f}, KL {law['kl']:.2f}"
        beyond = f" ({outside:.1%} not shown)" if outside > 1e-5 else ""
        dress(axes, "", "action a_1" if i == len(names) - 1 else "", "")
        axes.set_title(f"w = {weight:g}: {text}{beyond}", fontsize=7.5, loc="left")
        label = "" if j else f"{_title(name)}\n(density)"
        axes.set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    figure.suptitle(
        f"{FORMULAS[critic]}, exact velocity, T = {run['many']}; grey: exact π", fontsize=11
    )
    return figure


def _title(name: str) -> str:
    return "BC" if name == "none" else name


def _divergence(tables: Mapping[str, Rows], about: Mapping[str, Any]) -> Figure:
    """Products against the noise, their growth along t, guided paths, and peaks over separation."""
    figure, ((by_noise, growth, separation), paths) = grid(2, 3, 3.7, 3.4, 0)
    few = f"T = {about['T']}"
    _products(by_noise, growth, tables, few)
    _peaks(separation, about["largest_product_over_separation"])
    for (field, name), axes in zip(DRAWN, paths, strict=True):
        where = {"field": field, "estimator": name}
        _far_paths(axes, select(tables["escaping_paths"], **where), style(name)["color"])
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
    dress(by_noise, "Product of all Jacobians (unguided)", "noise a_0", "|∂a_1/∂a_0|", log="y")
    by_noise.set_ylim(1e-2, 1e10)
    dress(growth, "Its growth, from the worst a_0", "t", "|∂a_t/∂a_0|", log="y")


def _peaks(axes: Any, peaks_by_steps: Mapping[str, Any]) -> None:
    looks = ({"linestyle": "-"}, {"linestyle": "--"}, {"linestyle": ":"})
    for (name, peaks), look in zip(peaks_by_steps.items(), looks, strict=True):
        color = BLACK if "∞" in name else PURPLE
        axes.plot(*zip(*peaks, strict=True), color=color, marker="o", markersize=3, **look)
    title, y = "Largest product, exact velocity", "max |∂a_1/∂a_0|"
    dress(axes, title, "mode separation (×)", y, log="y")


def _far_paths(axes: Any, rows: Rows, color: str) -> None:
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
