"""The correction study in words: its table, and where each estimator is nearer than qgf."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qgf_ref.studies.base import Rows, distinct, fill, select
from qgf_ref.studies.correction.scenes import (
    BASELINE,
    CONDITIONS,
    FREE_TIME,
    MORE_STEPS,
    STEPS,
    Contender,
    scenes,
)
from qgf_ref.tables import text_table


def report(
    weights: Sequence[float], draws: int, chosen: Sequence[Contender], compared: Rows
) -> str:
    """The table to quote, and what it says."""
    names = [c.label for c in chosen if c.label not in (BASELINE, "none")] + ["oracle"]
    body = []
    for scene, condition, steps in distinct(compared, "scene", "condition", "T"):
        here = select(compared, scene=scene, condition=condition, T=steps)
        ratios = [[r["ratio"] for r in select(here, estimator=name)] for name in names]
        body.append([scene, condition, str(steps), *map(_cell_text, ratios)])
    table = text_table(["scene", "v and Q", "T", *map(_short, names)], body)
    note = fill(
        f"Each cell: at how many of the {len(weights)} weights "
        + " ".join(f"{w:g}" for w in weights)
        + " the samples are nearer to the exact tilted law than qgf's, and the geometric mean of "
        "distance/distance of qgf. qgf 3T: qgf with three times the steps, as many forwards of v "
        "as shifted. sched., covar.: scheduled, covariance. free t′: taylor with t′ off the grid, "
        "for fields that know all times. W1 by "
        "quadrature in one dimension, sliced W1 else. oracle is "
        "the exact guidance: what is left to it is Euler's error, and in more than one dimension "
        "that of finite samples, which draws every ratio towards 1. Below, intervals are Student's "
        f"t over {draws} draws, the same at every weight; in one dimension with exact v and Q "
        "nothing is drawn and the number counts as its interval."
    )
    flow = scenes()["1-D"].flow(CONDITIONS["exact"], STEPS, 0)
    costs = {c.label: c.estimator.products(flow, 1) for c in chosen if c.refine == 1}
    products = [[name, str(cost)] for name, cost in costs.items() if cost is not None]
    parts = [table, note]
    if products:
        head = ["products per step (k ≥ 1)", "beside the sampler's own v"]
        parts.append(text_table(head, products))
    return "\n\n".join([*parts, *_findings(compared, names)])


def _findings(compared: Rows, names: Sequence[str]) -> list[str]:
    here = select(compared, T=STEPS)
    texts = []
    for name in names:
        if name == "oracle":
            continue
        cells = select(here, estimator=name)
        nearer = [r for r in cells if r["ratio"] is not None and r["ratio"] < 1]
        sure = [r for r in cells if r["high"] is not None and r["high"] < 1]
        farther = [r for r in cells if r["low"] is None or r["low"] > 1]
        text = (
            f"{name}: nearer than {BASELINE} in {len(nearer)} of {len(cells)} cells at T = {STEPS} "
            f"({len(sure)} with the whole interval, {len(farther)} farther with the whole interval)"
        )
        worst = max(cells, key=lambda r: math.inf if r["ratio"] is None else r["ratio"])
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
        return f"{nearer} inf"
    mean = math.exp(sum(math.log(r) for r in ratios if r is not None) / len(ratios))
    return f"{nearer} {mean:.2f}" if mean < 10 else f"{nearer} {mean:.3g}"


def _short(name: str) -> str:
    """To fit a column of seven."""
    known = {
        "qgf_jacobian": "jacob.",
        "qgf_jacobian_scheduled": "sched.",
        "qgf_covariance": "covar.",
        "qgf_shifted_taylor": "taylor",
        FREE_TIME: "free t′",
        MORE_STEPS: "qgf 3T",
    }
    return known.get(name, name.rpartition(":")[2].removeprefix("qgf_"))[:7]
