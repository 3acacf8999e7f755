"""Each estimator as an optimiser of the critic: Q of its final actions beside its success rate.

Q is measured on fixed observations with fixed noise, the same for all: on the states that a method
visits, a good method's Q would be high because its states are. Over the weights, Q rises to the
highest that the estimator reaches; the paper's claim is that `ood` reaches the highest Q and the
lowest success. Source: method.md, section 7 (paper, Fig. 4 and 15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from qgf_ref.evaluation.methods import Method, parse_methods
from qgf_ref.evaluation.protocol import Evaluation
from qgf_ref.evaluation.statistics import rank_correlation
from qgf_ref.studies.base import Outcome, StudySettings
from qgf_ref.studies.q_optimizer.figures import scatter
from qgf_ref.studies.q_optimizer.points import (
    ROWS,
    Point,
    at_equal_q,
    fixed_observations,
    optimised,
)
from qgf_ref.studies.shared.episodes import (
    QUICK_WEIGHTS,
    WEIGHTS,
    Plan,
    guided_methods,
    note,
    paragraphs,
    play,
    rows,
    short,
    success_columns,
)
from qgf_ref.studies.shared.trained import interval_over, left_out
from qgf_ref.tables import text_table

ESTIMATORS = ("ood", "qgf", "qgf_jacobian", "bptt", "qgf_chain", "qgf_shifted")
QUICK_ESTIMATORS = ("ood", "qgf", "bptt")
REFERENCES = parse_methods(("bc", "bfn-16", "gradstep"))
PLAN = Plan(selection=24, held_out=48)
QUICK_PLAN = Plan(selection=8, held_out=8)
_OOD, _QGF = Method("ood"), Method("qgf")


def study(settings: StudySettings) -> Outcome:
    """Q of the final action and success over the grid of weights, for every estimator.

    Raises InputError as `evaluate` and `observations`, and when one of settings.estimators cannot
    run.
    """
    plan = QUICK_PLAN if settings.quick else PLAN
    guided, without = guided_methods(settings, QUICK_ESTIMATORS if settings.quick else ESTIMATORS)
    weights = QUICK_WEIGHTS if settings.quick else WEIGHTS
    states = fixed_observations(settings)  # what is missing is told before anything is played
    found = play(settings, (*REFERENCES, *guided), weights, plan)
    points = optimised(settings, found.selection, states)
    curves = {m: [p for p in points if p.method == m] for m in guided}
    alone = [p for p in points if p.method in REFERENCES]
    summary = [_summary(found, m, curve) for m, curve in curves.items()]
    compared = _comparison(points, curves, summary)
    rows_q = [_row(p) for p in points]
    return Outcome(
        _text(settings, plan, alone, summary, compared, without),
        {"": rows_q, "summary": summary, "episodes": rows((*found.selection, *found.held_out))},
        {"": scatter(found.task, curves, alone, len(points[0].cell.episodes))},
        {
            "weights": list(weights),
            "rows": ROWS,
            "summary": summary,
            "references": [_row(p) for p in alone],
            "comparison": compared,
            "left_out": without,
        },
    )


def _row(point: Point) -> dict[str, Any]:
    """A point in long form."""
    over = point.overestimation or (None, None, None)
    return {
        "method": point.method.identity,
        "weight": point.cell.weight,
        "q": point.q.value,
        "q_low": point.q.low,
        "q_high": point.q.high,
        "gain": point.gain.value,
        "gain_low": point.gain.low,
        "gain_high": point.gain.high,
        **success_columns(point.cell),
        "overestimation": over[0],
        "overestimation_low": over[1],
        "overestimation_high": over[2],
    }


def _summary(found: Evaluation, method: Method, curve: Sequence[Point]) -> dict[str, Any]:
    """One estimator: where its Q is highest, and where its success is."""
    held = next(c for c in found.held_out if c.method == method)
    top = max(curve, key=lambda p: p.q.value)
    chosen = next(p for p in curve if p.cell.weight == held.weight)
    over = chosen.overestimation
    return {
        "estimator": method.label,
        "weight_of_highest_q": top.cell.weight,
        "highest_q": top.q.value,
        "gain_there": top.gain.value,
        "gain_there_low": top.gain.low,
        "gain_there_high": top.gain.high,
        "success_there": top.cell.success.value,
        "success_there_low": top.cell.success.low,
        "success_there_high": top.cell.success.high,
        "chosen_weight": held.weight,
        "q_at_chosen": chosen.q.value,
        "gain_at_chosen": chosen.gain.value,
        **success_columns(held),
        "overestimation_at_chosen": None if over is None else over.value,
    }


def _comparison(
    points: Sequence[Point],
    curves: Mapping[Method, Sequence[Point]],
    summary: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Rank correlations, and ood against qgf at the same Q (None where they were not played)."""

    def rho(rows: Sequence[tuple[float, float]]) -> float | None:
        x, y = np.array(rows).T
        return rank_correlation(x, y)

    pairs = [(p.q.value, p.cell.success.value) for p in points]
    equal = at_equal_q(curves[_OOD], curves[_QGF]) if {_OOD, _QGF} <= set(curves) else None
    return {
        "rank_of_q_and_success": rho(pairs),
        "points": len(pairs),
        "rank_of_highest_q_and_held_out_success": rho(
            [(row["highest_q"], row["success"]) for row in summary]
        ),
        "ood_minus_qgf_at_equal_q": None if equal is None else equal._asdict(),
    }


def _text(
    settings: StudySettings,
    plan: Plan,
    alone: Sequence[Point],
    summary: Sequence[Mapping[str, Any]],
    compared: Mapping[str, Any],
    without: dict[str, str],
) -> str:
    header = ["estimator", "ΔQ max", "95%", "at w", "success", "best w", "ΔQ", "held out", "95%"]
    header += ["Q−G"]
    body = []
    for row in sorted(summary, key=lambda r: -r["highest_q"]):
        over = row["overestimation_at_chosen"]
        body.append(
            [
                short(row["estimator"]),
                f"{row['gain_there']:+.2f}",
                f"{row['gain_there_low']:+.1f} {row['gain_there_high']:+.1f}",
                f"{row['weight_of_highest_q']:g}",
                f"{row['success_there']:.2f}",
                f"{row['chosen_weight']:g}",
                f"{row['gain_at_chosen']:+.2f}",
                f"{row['success']:.2f}",
                f"{row['success_low']:.2f}–{row['success_high']:.2f}",
                "–" if over is None else f"{over:+.1f}",
            ]
        )
    for p in alone:
        ends = "" if p.method == Method() else f"{p.gain.low:+.1f} {p.gain.high:+.1f}"
        bias = p.overestimation
        body.append(
            [
                p.method.label,
                f"{p.gain.value:+.2f}",
                ends,
                "",
                f"{p.cell.success.value:.2f}",
                *[""] * 4,
                "–" if bias is None else f"{bias.value:+.1f}",
            ]
        )
    bc = next(p for p in alone if p.method == Method())
    above = [
        "Q of the final action and success",
        note(settings, plan),
        f"Q: aggregated target critic of the final, clipped action on {ROWS} fixed observations "
        f"and noises; ΔQ: above behaviour cloning's ({bc.q.value:.2f}) there, "
        f"{interval_over(settings)}.",
    ]
    below = [
        "ΔQ max: the highest over weights; success beside it: at that weight, selection episodes. "
        "best w, ΔQ, held out: at the weight of the highest success on the selection episodes. "
        "Q−G: mean of Q − return over the chunks executed there (selection episodes), the "
        "critic's overestimation.",
        *_findings(summary, compared),
        *left_out(without),
    ]
    return f"{paragraphs(above)}\n\n{text_table(header, body)}\n\n{paragraphs(below)}"


def _order(summary: Sequence[Mapping[str, Any]], column: str) -> str:
    """The estimators from the highest value down: a > b = c."""
    ranked = sorted(summary, key=lambda r: -float(r[column]))
    text = str(ranked[0]["estimator"])
    for before, r in pairwise(ranked):
        text += f" {'=' if r[column] == before[column] else '>'} {r['estimator']}"
    return text


def _findings(summary: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> list[str]:
    """What the numbers say of the paper's claim."""
    lines = [
        f"By highest Q: {_order(summary, 'highest_q')}",
        f"By held-out success: {_order(summary, 'success')}",
    ]
    ood = next((r for r in summary if r["estimator"] == "ood"), None)
    if ood is not None and len(summary) > 1:
        top = max(summary, key=lambda r: float(r["highest_q"]))
        does = "reaches" if top is ood else "does not reach"
        rivals = [r for r in summary if r is not ood] if top is ood else [top]
        near = [
            r["estimator"]
            for r in rivals
            if r["gain_there_low"] <= ood["gain_there_high"]
            and ood["gain_there_low"] <= r["gain_there_high"]
        ]
        but = f" (its interval overlaps that of {', '.join(near)})" if near else ""
        lines.append(f"The paper's claim that ood reaches the highest Q: here it {does} it{but}.")
    every = compared["rank_of_q_and_success"]
    tops = compared["rank_of_highest_q_and_held_out_success"]
    if every is not None:
        lines.append(
            f"Spearman's ρ of Q and success over all {compared['points']} points: {every:+.2f}."
        )
    if tops is not None:
        lines.append(
            f"Spearman's ρ of highest Q and held-out success over estimators: {tops:+.2f} "
            f"(n = {len(summary)})."
        )
    equal = compared["ood_minus_qgf_at_equal_q"]
    if equal is not None:
        ends = equal["low"], equal["high"]
        verdict = (
            "lower" if ends[1] < 0 else "higher" if ends[0] > 0 else "not measurably different"
        )
        lines.append(
            f"At equal Q (below each one's highest), ood − qgf in success: {equal['value']:+.2f} "
            f"({ends[0]:+.2f} {ends[1]:+.2f}): {verdict}."
        )
    return lines
