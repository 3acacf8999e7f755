"""The study of distances in words: its table, and what equal Q and equal weight say of OOD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.studies.base import Rows, distinct, fill
from qgf_ref.studies.shared.trained import interval
from qgf_ref.tables import text_table

DRAWS = 64
BC, BFN, DATA = "none", f"bfn-{DRAWS}", "held-out data"
Drawn = tuple[str, float | None]
"""An estimator, or one of the three references, and its weight."""
Distances = Mapping[Drawn, Sequence[Mapping[str, Array]]]
"""For each checkpoint, every measure (B,)."""
Means = Mapping[tuple[str, float | None, str], Estimate]
"""By estimator, weight and measure."""


def report(
    table: Rows, distances: Distances, names: Sequence[str], weights: Sequence[float]
) -> str:
    """Every mean distance, where each estimator leaves the data, and the claim on OOD."""
    at = means(table)
    blocks = [_distances(table, at), _at_equal_q(at, distances, names, weights)]
    if "ood" in names and len(names) > 1:
        blocks.append(ood_claim(distances, [n for n in names if n != "ood"], weights))
    return "\n\n".join(blocks)


def means(table: Rows) -> Means:
    """The table's estimates by what they are of."""
    return {
        (r["estimator"], r["weight"], r["measure"]): Estimate(r["value"], r["low"], r["high"])
        for r in table
    }


def _distances(table: Rows, at: Means) -> str:
    body = []
    for name, weight in distinct(table, "estimator", "weight"):
        cells = ["BC" if name == BC else name, "–" if weight is None else f"{weight:g}"]
        for measure in ("oracle", "data", "local", "q"):
            e = at.get((name, weight, measure))
            ends = "" if e is None or measure in ("local", "q") else f" [{e.low:.2f}, {e.high:.2f}]"
            cells.append("–" if e is None else f"{e.value:.2f}{ends}")
        body.append(cells)
    return text_table(
        ["", "w", "to the oracle", "to the data", "to near data", "Q"], body, left=(0,)
    )


def _at_equal_q(
    at: Means, distances: Distances, names: Sequence[str], weights: Sequence[float]
) -> str:
    bound = float(np.quantile(np.concatenate([m["data"] for m in distances[BC, None]]), 0.95))
    best = at[BFN, None, "q"].value
    body = []
    for name in names:
        outside = [w for w in weights if at[name, w, "data"].value > bound]
        qs = [at[name, w, "q"].value for w in weights]
        reached = distance_at(at, name, weights, best)
        body.append(
            [
                name,
                f"{outside[0]:g}" if outside else "never",
                f"{max(qs):.2f}",
                f"{weights[int(np.argmax(qs))]:g}",
                "Q not reached" if reached is None else f"{reached:.2f}",
            ]
        )
    head = ["", "from w", "highest Q", "at w", f"distance to the data at {BFN}'s Q"]
    return (
        f"95% of BC's actions are within {bound:.2f} of the data; the mean action is beyond that:\n"
        + text_table(head, body, left=(0,))
    )


def ood_claim(distances: Distances, others: Sequence[str], weights: Sequence[float]) -> str:
    """Whether OOD goes farthest from the data, by intervals of paired differences."""
    verdicts: dict[str, list[str]] = {"yes": [], "within the intervals": [], "no": []}
    for w in weights:
        pairs = [zip(distances["ood", w], distances[name, w], strict=True) for name in others]
        leads = [interval([ood["data"] - other["data"] for ood, other in pair]) for pair in pairs]
        if any(e.high < 0 for e in leads):
            verdict = "no"
        else:
            verdict = "yes" if all(e.low > 0 for e in leads) else "within the intervals"
        verdicts[verdict].append(f"{w:g}")
    where = "; ".join(f"{verdict} at w = {', '.join(ws)}" for verdict, ws in verdicts.items() if ws)
    return fill(f'"OOD goes farthest from the data", at equal weight: {where}.')


def distance_at(at: Means, name: str, weights: Sequence[float], q: float) -> float | None:
    """The distance to the data where the estimator first reaches the value q, linear in Q between
    neighbouring weights from BC on; None where it never does.
    """
    keys: list[Drawn] = [(BC, None), *((name, w) for w in weights)]
    qs = [at[n, w, "q"].value for n, w in keys]
    distances = [at[n, w, "data"].value for n, w in keys]
    for i in range(1, len(qs)):
        if qs[i - 1] < q <= qs[i]:
            share = (q - qs[i - 1]) / (qs[i] - qs[i - 1])
            return distances[i - 1] + share * (distances[i] - distances[i - 1])
    return None
