"""The 2×2 design: clip mask or not × Jacobian or not, and its effects with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.studies.base import Rows
from qgf_ref.tables import text_table

NEITHER, MASK, JACOBIAN, BOTH = "qgf", "qgf_masked", "qgf_jacobian_unmasked", "qgf_jacobian"
FOUR = (NEITHER, MASK, JACOBIAN, BOTH)
"""In the order of every table: neither, mask alone, Jacobian alone, both."""

HEADS = {NEITHER: "neither", MASK: "mask", JACOBIAN: "J", BOTH: "both"}
EFFECTS = ("mask", "Jacobian", "interaction")


def effects(y: Mapping[str, Array]) -> dict[str, Array]:
    """Main effects and interaction, elementwise, of a measure y by estimator: arrays of one shape.

    mask         mean of (masked − not) without and with the Jacobian
    Jacobian     mean of (with − without) without and with the mask
    interaction  effect of the mask with the Jacobian, minus that without it
    """
    without, with_ = y[MASK] - y[NEITHER], y[BOTH] - y[JACOBIAN]
    jacobian = (y[JACOBIAN] - y[NEITHER] + y[BOTH] - y[MASK]) / 2
    return {
        "mask": (without + with_) / 2,
        "Jacobian": jacobian,
        "interaction": with_ - without,
    }


def factor_rows(
    y: Mapping[str, list[Array]], mean: Callable[[list[Array]], Estimate], head: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Long-form rows: the four cells and the three effects.

    y     by estimator, one array for each cluster that `mean` takes (checkpoints, say), all paired
    head  columns that say what was measured
    """
    by_cluster = [
        effects({name: values[i] for name, values in y.items()}) for i in range(len(y[NEITHER]))
    ]
    rows = [{**head, "term": name, **mean(y[name])._asdict()} for name in FOUR]
    for effect in EFFECTS:
        values = [each[effect] for each in by_cluster]
        rows.append({**head, "term": effect, **mean(values)._asdict()})
    return rows


def factor_table(rows_by_label: Mapping[str, Rows], digits: int = 2) -> str:
    """The four cells, and each effect ± half of its interval; * where the interval excludes 0."""
    body = []
    for label, rows in rows_by_label.items():
        at = {r["term"]: r for r in rows}
        cells = [f"{at[name]['value']:.{digits}f}" for name in FOUR]
        body.append([label, *cells, *(effect_text(at[e], digits) for e in EFFECTS)])
    return text_table(["", *HEADS.values(), *EFFECTS], body, left=(0,))


def effect_text(row: Mapping[str, Any], digits: int = 2) -> str:
    """+0.12±0.03*."""
    half = (row["high"] - row["low"]) / 2
    star = "*" if certain(row) else " "
    return f"{row['value']:+.{digits}f}±{half:.{digits}f}{star}"


def certain(row: Mapping[str, Any]) -> bool:
    """Whether the interval has a width and excludes zero: equal values everywhere prove nothing."""
    return bool((row["low"] > 0 or row["high"] < 0) and row["high"] > row["low"])
