"""Which estimator is nearest to the exact tilted law, at every w, with right and wrong v and Q.

method.md, section 6, derives the factor that the paper's sampler lacks. This study follows it
through: the schedule (`qgf_jacobian_scheduled`), the conditional covariance (`qgf_covariance`), and
the tilt as a shift of the denoiser's argument (`qgf_shifted`), at T = 10 and at T = 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from qgf_ref.evaluation.statistics import bootstrap_mean
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.registry import estimator
from qgf_ref.plotting import dress, new_figure, style
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.bias_variance_text import fill
from qgf_ref.studies.correction_scenes import CONDITIONS, Scene, Wrong, reached, scenes

DEFAULT = (
    "none",
    "qgf",
    "qgf_jacobian",
    "qgf_jacobian_scheduled",
    "qgf_covariance",
    "qgf_shifted",
    "qgf_shifted_taylor",
)
BASELINE = "qgf"
STEPS, MANY_STEPS = 10, 100


@dataclass(frozen=True)
class Size:
    """weights; draws of errors and noise; rows of a sample in one and in more dimensions."""

    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    draws: int = 4
    rows_1d: int = 1000
    rows: int = 400
    names: tuple[str, ...] = ("1-D", "1-D distance", "1-D bump", "2-D", "10-D")
    conditions: tuple[str, ...] = ("exact", "wrong v", "wrong Q", "both wrong")


QUICK = Size(
    weights=(0.03, 0.3, 3.0),
    draws=2,
    rows_1d=400,
    rows=200,
    names=("1-D", "1-D distance", "2-D"),
    conditions=("exact", "both wrong"),
)


def study(settings: StudySettings) -> Outcome:
    """Distances of every estimator's samples to the exact law, and their ratio to qgf's."""
    size = QUICK if settings.quick else Size()
    chosen = [estimator(name) for name in settings.estimators or DEFAULT]
    if BASELINE not in [e.label for e in chosen]:
        chosen.insert(0, estimator(BASELINE))
    rows = measure(size, chosen, settings.seed)
    compared = comparison(rows)
    return Outcome(
        text=report(size, chosen, compared, rows),
        tables={"": rows, "ratios": compared},
        figures={"distance": _figure(size, rows, STEPS)},
        details={
            "draws": size.draws,
            "rows": {"1-D": size.rows_1d, "n-D": size.rows},
            "errors": {name: vars(CONDITIONS[name]) for name in size.conditions},
            "ratios": compared,
        },
    )


def measure(size: Size, chosen: Sequence[Estimator], seed: int) -> list[dict[str, Any]]:
    """One row for each scene, condition, T, weight, estimator and draw; distance None: diverged."""
    every = scenes()
    cells = [
        (every[name], condition, steps)
        for name in size.names
        for condition in size.conditions
        for steps in (STEPS, MANY_STEPS)
        if steps == STEPS or (condition == "exact" and name in ("1-D", "1-D distance", "1-D bump"))
    ]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(cells) * len(size.weights), unit="weight", disable=None) as bar:
        for scene, condition, steps in cells:
            bar.set_description(f"{scene.name}, {condition}, T = {steps}")
            for weight in size.weights:
                rows += _cell(size, chosen, scene, condition, steps, weight, seed)
                bar.update()
    return rows


def _cell(
    size: Size,
    chosen: Sequence[Estimator],
    scene: Scene,
    condition: str,
    steps: int,
    weight: float,
    seed: int,
) -> list[dict[str, Any]]:
    wrong, flat = CONDITIONS[condition], scene.mixture.dim == 1
    # in one dimension the noise is a quadrature: without errors nothing is drawn
    draws = 1 if flat and wrong.none else size.draws
    count = size.rows_1d if flat else size.rows
    rows = []
    for draw in range(draws):
        at = seed * 1000 + draw
        flow = scene.flow(wrong, steps, at)
        distance = scene.distance_to(weight, at)
        for e in _with_oracle(chosen, wrong):
            actions = reached(scene, flow, e, weight, count, at)
            rows.append(
                {
                    "scene": scene.name,
                    "condition": condition,
                    "T": steps,
                    "weight": weight,
                    "estimator": e.label,
                    "draw": draw,
                    "distance": None if actions is None else distance(actions),
                }
            )
    return rows


def _with_oracle(chosen: Sequence[Estimator], wrong: Wrong) -> list[Estimator]:
    """The exact guidance too, where the networks are exact: what Euler's error alone leaves."""
    return [*chosen, estimator("oracle")] if wrong.none else list(chosen)


def comparison(rows: Rows) -> list[dict[str, Any]]:
    """distance/distance of qgf in each cell: the geometric mean over draws and its 95% interval.

    A bootstrap over draws. Infinite where the estimator diverged in one of them.
    """
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for r in rows:
        cell = found.setdefault((r["scene"], r["condition"], r["T"], r["weight"]), {})
        value = math.inf if r["distance"] is None else r["distance"]
        cell.setdefault(r["estimator"], []).append(value)
    table = []
    for (scene, condition, steps, weight), cell in found.items():
        for name, values in cell.items():
            if name == BASELINE:
                continue
            ratio = np.array(values) / np.array(cell[BASELINE])
            row = {
                "scene": scene, "condition": condition, "T": steps, "weight": weight,
                "estimator": name,
            }  # fmt: skip
            if not np.isfinite(ratio).all():
                table.append({**row, "ratio": None, "low": None, "high": None})
                continue
            mean = bootstrap_mean(np.log(ratio))
            table.append(
                {**row, "ratio": float(np.exp(mean.value)), "low": float(np.exp(mean.low)),
                 "high": float(np.exp(mean.high))}
            )  # fmt: skip
    return table


def report(size: Size, chosen: Sequence[Estimator], compared: Rows, rows: Rows) -> str:
    """The table to quote, and what it says."""
    names = [e.label for e in chosen if e.label != BASELINE] + ["oracle"]
    head = f"{'scene':13}{'v and Q':12}{'T':>4}" + "".join(f"{_short(n):>11}" for n in names)
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
            cells += f"{_cell_text(ratios):>11}"
        lines.append(f"{scene:13}{condition:12}{steps:>4}{cells}")
    table = "\n".join(lines)
    note = fill(
        "Each cell: at how many of the weights "
        + " ".join(f"{w:g}" for w in size.weights)
        + " the samples are nearer to the exact tilted law than qgf's, and the geometric mean of "
        "distance/distance of qgf. W1 by quadrature in one dimension, sliced W1 else. oracle is "
        "the exact guidance: what is left to it is Euler's error."
    )
    counted = [e for e in chosen if e.products(_example(), 1) is not None]
    products = "\n".join(f"{e.label:24} {e.products(_example(), 1)}" for e in counted)
    parts = [table, note, f"Products per step (k ≥ 1), beside the sampler's own v:\n{products}"]
    return "\n\n".join([*parts, *_findings(compared, names)])


def _findings(compared: Rows, names: Sequence[str]) -> list[str]:
    here = [r for r in compared if r["T"] == STEPS]
    texts = []
    for name in names:
        if name in ("none", "oracle"):
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
    if any(r is None for r in ratios):
        return f"{nearer}/{len(ratios)} inf"
    mean = math.exp(sum(math.log(r) for r in ratios if r is not None) / len(ratios))
    return f"{nearer}/{len(ratios)} {mean:.2f}"


def _short(name: str) -> str:
    """To fit a column of eleven."""
    known = {"qgf_jacobian": "jacobian", "qgf_jacobian_scheduled": "scheduled"}
    return known.get(name, name.removeprefix("qgf_shifted_").removeprefix("qgf_"))[:10]


def _example() -> GuidedFlow:
    return scenes()["1-D"].flow(CONDITIONS["exact"], STEPS, 0)


def _figure(size: Size, rows: Rows, steps: int) -> Figure:
    shown = [c for c in size.conditions if c in ("exact", "both wrong")]
    figure = new_figure(3.0 * len(size.names) + 1.6, 2.7 * len(shown))
    axes = np.atleast_2d(figure.subplots(len(shown), len(size.names), squeeze=False))
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    for i, condition in enumerate(shown):
        for j, scene in enumerate(size.names):
            ax = axes[i, j]
            for name in names:
                points = _means(rows, scene, condition, steps, name)
                if points:
                    ax.plot(*zip(*points, strict=True), **style(name), label=name)
            unit = "W1" if scene.startswith("1-D") else "sliced W1"
            dress(ax, f"{scene}, {condition}", "guidance weight w", f"{unit} to the exact law")
            ax.set_xscale("log")
            ax.set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    labels = ["none (BC)" if name == "none" else name for name in labels]
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure


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
