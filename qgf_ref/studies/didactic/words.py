"""The didactic study in words: tables of distances, and the paper's claims judged by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from qgf_ref.studies.didactic.runs import Case, Law
from qgf_ref.studies.shared.scenes import FORMULAS

FLOOR = 3.0
"""An estimator is called biased where its W1 is more than this times the oracle's, whose whole W1
is the integrator's error and the quadrature's."""


class Shown(Protocol):
    """What the tables need of the study's grid."""

    @property
    def shown(self) -> tuple[float, ...]:
        """Weights."""
        ...

    @property
    def few(self) -> int:
        """The paper's T."""
        ...

    @property
    def many(self) -> int:
        """T near the continuous flow."""
        ...


def law_tables(laws: Mapping[Case, Law], grid: Shown) -> list[str]:
    """For each critic and field: W1 and KL of each estimator at the weights shown."""
    found = []
    for critic, formula in FORMULAS.items():
        for field, steps in (("exact", grid.many), ("exact", grid.few), ("learned", grid.few)):
            found.append(_table(laws, critic, formula, field, steps, grid.shown))
    return found


def _table(
    laws: Mapping[Case, Law],
    critic: str,
    formula: str,
    field: str,
    steps: int,
    weights: Sequence[float],
) -> str:
    names = dict.fromkeys(case.estimator for case in laws)
    width = max(map(len, names)) + 1
    heads = [f"{metric} w={w:g}" for metric in ("W1", "KL") for w in weights]
    lines = [f"{formula}, {field} velocity, T = {steps}"]
    lines.append(" " * width + "".join(f"{head:>10}" for head in heads))
    for name in names:
        cases = [Case(field, critic, name, w, steps) for w in weights]
        if not all(case in laws for case in cases):
            continue
        values = [getattr(laws[c], metric) for metric in ("w1", "kl") for c in cases]
        shown = ["diverged" if v is None else f"{v:.3f}" for v in values]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in shown))
    return "\n".join(lines)


def claims(
    laws: Mapping[Case, Law], weights: Sequence[float], steps: tuple[int, int]
) -> list[dict[str, Any]]:
    """Each claim over all critics and weights, for each field and T: how often it holds.

    A diverged law counts as farther than any other. Claims about estimators that were not run are
    left out. JSON: claim, field, T, holds, of, verdict (confirmed: everywhere; contradicted:
    nowhere; else mixed), fails: the cells where it does not hold.
    """
    few, many = steps
    found = []
    for field, T in (("exact", many), ("exact", few), ("learned", few)):
        cells = [(critic, w) for critic in FORMULAS for w in weights]

        def distance(name: str, critic: str, w: float, field: str = field, T: int = T) -> float:
            law = laws[Case(field, critic, name, w, T)]
            return float("inf") if law.w1 is None else law.w1

        def ran(name: str, field: str = field, T: int = T) -> bool:
            return all(Case(field, c, name, w, T) in laws for c in FORMULAS for w in weights)

        others = [n for n in dict.fromkeys(c.estimator for c in laws) if n != "oracle" and ran(n)]
        # on the network its own error would count as OOD's bias
        if (
            field == "exact"
            and "ood" in others
            and all(Case("exact", c, "oracle", w, T) in laws for c, w in cells)
        ):
            fails = [
                (c, w)
                for c, w in cells
                if not distance("ood", c, w) > FLOOR * distance("oracle", c, w, "exact", T)
            ]
            claim = f"OOD is biased: W1 above {FLOOR:g} times the oracle's (exact velocity, same T)"
            found.append(_verdict(claim, field, T, fails, len(cells)))
        for near, far in (
            ("qgf", "bptt"),
            ("qgf", "ood"),
            ("qgf", "qgf_jacobian"),
            ("qgf", "qgf_chain"),
            ("qgf_covariance", "qgf"),
            ("qgf_shifted", "qgf"),
        ):
            if near in others and far in others:
                fails = [(c, w) for c, w in cells if not distance(near, c, w) < distance(far, c, w)]
                claim = f"{near} is nearer than {far}"
                found.append(_verdict(claim, field, T, fails, len(cells)))
    return found


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


def claims_text(found: Sequence[Mapping[str, Any]]) -> str:
    """One line for each claim and setting, with the number of (critic, weight) cells."""
    if not found:
        return "No claim of the paper concerns these estimators."
    lines = ["Claims, over all critics and weights (W1; cells in which each holds):"]
    for claim in dict.fromkeys(row["claim"] for row in found):
        lines.append(f"  {claim}")
        for row in found:
            if row["claim"] == claim:
                lines.append(
                    f"    {row['field'] + ' velocity,':18} T = {row['T']:<4} "
                    f"{row['holds']:>3} of {row['of']:<4} {row['verdict']}"
                )
    return "\n".join(lines)
