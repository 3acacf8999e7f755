"""The correction study's table, sentences and figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.plotting import dress, new_figure, style
from qgf_ref.studies.base import Rows, fill
from qgf_ref.studies.correction.scenes import CONDITIONS, Contender
from qgf_ref.studies.correction.scenes import scenes as every_scene

BASELINE = "qgf"
STEPS = 10
FREE_TIME = "qgf_shifted_taylor, free t′"
MORE_STEPS = "qgf, 3T steps"


def report(
    weights: Sequence[float], draws: int, chosen: Sequence[Contender], compared: Rows
) -> str:
    """The table to quote, and what it says."""
    names = [c.label for c in chosen if c.label not in (BASELINE, "none")] + ["oracle"]
    head = f"{'scene':13}{'v and Q':10}{'T':>4}" + "".join(f"{_short(n):>9}" for n in names)
    lines = [head]
    for scene, condition, steps in dict.fromkeys(
        (r["scene"], r["condition"], r["T"]) for r in compared
    ):
        cells = ""
        for name in names:
            ratios = [
                r["ratio"]
                for r in compared
                if (r["scene"], r["condition"], r["T"], r["estimator"])
                == (scene, condition, steps, name)
            ]
            cells += f"{_cell_text(ratios):>9}"
        lines.append(f"{scene:13}{condition:10}{steps:>4}{cells}")
    table = "\n".join(lines)
    note = fill(
        "Each cell: at how many of the weights "
        + " ".join(f"{w:g}" for w in weights)
        + " the samples are nearer to the exact tilted law than qgf's, and the geometric mean of "
        "distance/distance of qgf. qgf 3T: qgf with three times the steps, as many forwards of v "
        "as shifted. free t′: taylor with t′ off the grid, for fields that know all times. W1 by "
        "quadrature in one dimension, sliced W1 else. oracle is "
        "the exact guidance: what is left to it is Euler's error, and in more than one dimension "
        "that of finite samples, which draws every ratio towards 1. Below, intervals are Student's "
        f"t over {draws} draws, the same at every weight; in one dimension with exact v and Q "
        "nothing is drawn and the number counts as its interval."
    )
    products = "\n".join(
        f"{c.label:24} {c.estimator.products(_example(), 1)}"
        for c in chosen
        if c.refine == 1 and c.estimator.products(_example(), 1) is not None
    )
    parts = [table, note, f"Products per step (k ≥ 1), beside the sampler's own v:\n{products}"]
    return "\n\n".join([*parts, *_findings(compared, names)])


def _findings(compared: Rows, names: Sequence[str]) -> list[str]:
    here = [r for r in compared if r["T"] == STEPS]
    texts = []
    for name in names:
        if name == "oracle":
            continue
        own = [r for r in here if r["estimator"] == name]
        nearer = [r for r in own if r["ratio"] is not None and r["ratio"] < 1]
        sure = [r for r in own if r["high"] is not None and r["high"] < 1]
        farther = [r for r in own if r["low"] is None or r["low"] > 1]
        text = (
            f"{name}: nearer than {BASELINE} in {len(nearer)} of {len(own)} cells at T = {STEPS} "
            f"({len(sure)} with the whole interval, {len(farther)} farther with the whole interval)"
        )
        worst = max(own, key=lambda r: math.inf if r["ratio"] is None else r["ratio"])
        ratio = "diverged" if worst["ratio"] is None else f"{worst['ratio']:.2f} times"
        text += (
            f"; worst: {ratio}, {worst['scene']}, {worst['condition']}, w = {worst['weight']:g}."
        )
        texts.append(fill(text))
    return texts


def _cell_text(ratios: Sequence[float | None]) -> str:
    if not ratios:
        return "–"
    nearer = sum(r is not None and r < 1 for r in ratios)
    if any(r is None or r == 0 for r in ratios):
        return f"{nearer}/{len(ratios)} inf"
    mean = math.exp(sum(math.log(r) for r in ratios if r is not None) / len(ratios))
    return f"{nearer}/{len(ratios)} {mean:.2f}"


def _short(name: str) -> str:
    """To fit a column of nine."""
    known = {
        "qgf_jacobian": "jacobian",
        "qgf_jacobian_scheduled": "schedule",
        "qgf_covariance": "covar.",
        "qgf_shifted_taylor": "taylor",
        FREE_TIME: "free t′",
        MORE_STEPS: "qgf 3T",
    }
    return known.get(name, name.rpartition(":")[2].removeprefix("qgf_"))[:8]


def _example() -> GuidedFlow:
    return every_scene()["1-D"].flow(CONDITIONS["exact"], STEPS, 0)


def figure(scenes: Sequence[str], conditions: Sequence[str], rows: Rows, steps: int) -> Figure:
    """Distance against w: a column for each scene; exact networks above, wrong ones below."""
    shown = [c for c in conditions if c in ("exact", "both wrong")]
    made = new_figure(3.0 * len(scenes) + 1.6, 2.7 * len(shown))
    axes = made.subplots(len(shown), len(scenes), squeeze=False)
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    for i, condition in enumerate(shown):
        for j, scene in enumerate(scenes):
            ax = axes[i, j]
            for name in names:
                points = _means(rows, scene, condition, steps, name)
                if points:
                    ax.plot(*zip(*points, strict=True), **_look(name), label=name)
            unit = "W1" if scene.startswith("1-D") else "sliced W1"
            dress(ax, f"{scene}, {condition}", "guidance weight w", f"{unit} to the exact law")
            ax.set_xscale("log")
            ax.set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    labels = ["none (BC)" if name == "none" else name for name in labels]
    made.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return made


def _look(name: str) -> dict[str, Any]:
    if name == FREE_TIME:
        return {**style("qgf_shifted_taylor"), "linestyle": ":"}
    if name == MORE_STEPS:
        return {**style("qgf"), "linestyle": ":"}
    return style(name)


def _means(
    rows: Rows, scene: str, condition: str, steps: int, name: str
) -> list[tuple[float, float]]:
    """(w, mean distance over draws), without the weights at which it diverged."""
    by_weight: dict[float, list[float | None]] = {}
    for r in rows:
        if (r["scene"], r["condition"], r["T"], r["estimator"]) == (scene, condition, steps, name):
            by_weight.setdefault(r["weight"], []).append(r["distance"])
    return [
        (w, float(np.mean([d for d in found if d is not None])))
        for w, found in by_weight.items()
        if None not in found
    ]
