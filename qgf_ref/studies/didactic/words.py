"""The didactic study in words: tables of distances, and the paper's claims judged by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from qgf_ref.studies.base import fill
from qgf_ref.studies.didactic.divergence import Divergence
from qgf_ref.studies.didactic.runs import DidacticGrid, Law, LawCase
from qgf_ref.studies.shared.scenes import FORMULAS
from qgf_ref.tables import columns_of, text_table

FLOOR = 3.0
"""An estimator is called biased where its W1 is more than this times the oracle's, whose whole W1
is the integrator's error and the quadrature's."""


PAIRS = (
    ("qgf", "bptt"),
    ("qgf", "ood"),
    ("qgf", "qgf_jacobian"),
    ("qgf", "qgf_chain"),
    ("qgf_covariance", "qgf"),
    ("qgf_shifted", "qgf"),
)
"""The first is claimed to be nearer to the exact law than the second."""


def law_tables(laws: Mapping[LawCase, Law], grid: DidacticGrid) -> list[str]:
    """For each critic, field and T: W1 and KL of each estimator at the weights shown."""
    tables = []
    for critic, (field, steps) in product(FORMULAS, settings(grid.few, grid.many)):
        body = []
        for name in dict.fromkeys(case.estimator for case in laws):
            cases = [LawCase(field, critic, name, w, steps) for w in grid.shown]
            if all(case in laws for case in cases):
                values = [getattr(laws[c], metric) for metric in ("w1", "kl") for c in cases]
                body.append([name, *("diverged" if v is None else f"{v:.3f}" for v in values)])
        head = [f"{metric} w={w:g}" for metric in ("W1", "KL") for w in grid.shown]
        title = f"{FORMULAS[critic]}, {field} velocity, T = {steps}"
        tables.append(f"{title}\n{text_table(['', *head], body, left=(0,))}")
    return tables


def settings(few: int, many: int) -> tuple[tuple[str, int], ...]:
    """The fields and T at which everything is compared over weights."""
    return (("exact", many), ("exact", few), ("learned", few))


def claims(
    laws: Mapping[LawCase, Law], weights: Sequence[float], steps: tuple[int, int]
) -> list[dict[str, Any]]:
    """Each claim over all critics and weights, for each field and T: how often it holds.

    A diverged law counts as farther than any other. Claims about estimators that were not run are
    left out. JSON: claim, field, T, holds, of, verdict (confirmed: everywhere; contradicted:
    nowhere; else mixed), fails: the cells where it does not hold.
    """
    verdicts = []
    for field, T in settings(*steps):
        cells = list(product(FORMULAS, weights))

        def distances(
            name: str, field: str = field, T: int = T, cells: list[Any] = cells
        ) -> list[float] | None:
            """By cell; None where the estimator was not run in all."""
            cases = [LawCase(field, critic, name, w, T) for critic, w in cells]
            if not all(case in laws for case in cases):
                return None
            reached = [laws[case].w1 for case in cases]
            return [math.inf if w1 is None else w1 for w1 in reached]

        compared = [(f"{near} is nearer than {far}", near, far, 1.0) for near, far in PAIRS]
        # on the network its own error would count as OOD's bias
        if field == "exact":
            bias = f"OOD is biased: W1 above {FLOOR:g} times the oracle's (exact velocity, same T)"
            compared.insert(0, (bias, "oracle", "ood", FLOOR))
        for claim, near, far, factor in compared:
            least, most = distances(near), distances(far)
            if least is not None and most is not None:
                holds = [factor * a < b for a, b in zip(least, most, strict=True)]
                fails = [c for c, nearer in zip(cells, holds, strict=True) if not nearer]
                verdicts.append(_verdict(claim, field, T, fails, len(cells)))
    return verdicts


def _verdict(
    claim: str, field: str, steps: int, fails: list[tuple[str, float]], of: int
) -> dict[str, Any]:
    verdict = "confirmed" if not fails else "contradicted" if len(fails) == of else "mixed"
    return {
        "claim": claim,
        "field": field,
        "T": steps,
        "holds": of - len(fails),
        "of": of,
        "verdict": verdict,
        "fails": [f"{critic} w={w:g}" for critic, w in fails],
    }


def claims_text(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One line for each claim and setting, with the number of (critic, weight) cells."""
    if not verdicts:
        return "No claim of the paper concerns these estimators."
    lines = ["Claims, over all critics and weights (W1; cells in which each holds):"]
    for claim in dict.fromkeys(row["claim"] for row in verdicts):
        lines.append(f"  {claim}")
        lines += [
            f"    {row['field'] + ' velocity,':18} T = {row['T']:<4} "
            f"{row['holds']:>3} of {row['of']:<4} {row['verdict']}"
            for row in verdicts
            if row["claim"] == claim
        ]
    return "\n".join(lines)


def divergence_text(diverging: Divergence) -> str:
    """The rows as a table, and what the product reaches."""

    def number(column: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda r: "diverged" if r[column] is None else f"{r[column]:.3g}"

    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "velocity": lambda r: r["field"],
        "estimator": lambda r: r["estimator"],
        "max |G|": number("largest_g"),
        "max |a_t|": number("largest_a_t"),
        "max |a_1|": number("largest_action"),
        "escaped": lambda r: f"{r['escaped']:.1%}",
    }
    peaks = {name: p.largest for name, p in diverging.products.items()}
    peaks["exact, T → ∞: φ(a_0)/π̂(a_1)"] = float(diverging.limit[1].max())
    return "\n".join(
        [
            fill(
                f"Divergence: Q = −|a − a*|, w = {diverging.weight:g}, T = {diverging.steps}. |∇Q| "
                "= 1, so |G| of bptt is the product of the flow's Jacobians; escaped: actions "
                "farther than 10 sd from every mode."
            ),
            text_table(*columns_of(diverging.rows, columns)),
            "Largest |∂a_1/∂a_0|, the product of all Jacobians:",
            *(f"  {name:30}{peak:>10.3g}" for name, peak in peaks.items()),
        ]
    )
