"""The study `q-optimizer` in words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from qgf_ref.studies.base import Rows, StudySettings, page
from qgf_ref.studies.q_optimizer.points import ROWS
from qgf_ref.studies.shared.episodes import interval_text, short
from qgf_ref.studies.shared.trained import interval_over, left_out
from qgf_ref.tables import text_table


def report(
    settings: StudySettings,
    note: str,
    references: Rows,
    summary: Rows,
    compared: Mapping[str, Any],
    without: Mapping[str, str],
) -> str:
    """The table by highest Q, and what it says of the paper's claim."""
    unguided = next(r for r in references if r["method"] == "bc")
    above = [
        "Q of the final action and success",
        note,
        f"Q: aggregated target critic of the final, clipped action on {ROWS} fixed observations "
        f"and noises; ΔQ: above behaviour cloning's ({unguided['q']:.2f}) there, "
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
    return page(above, _table(references, summary), below)


def _table(references: Rows, summary: Rows) -> str:
    header = ["estimator", "ΔQ max", "95%", "at w", "success", "best w", "ΔQ", "held out", "95%"]
    body = [
        [
            short(r["estimator"]),
            f"{r['gain_there']:+.2f}",
            f"{r['gain_there_low']:+.1f} {r['gain_there_high']:+.1f}",
            f"{r['weight_of_highest_q']:g}",
            f"{r['success_there']:.2f}",
            f"{r['chosen_weight']:g}",
            f"{r['gain_at_chosen']:+.2f}",
            f"{r['success']:.2f}",
            interval_text(r),
            _signed(r["overestimation_at_chosen"]),
        ]
        for r in sorted(summary, key=lambda r: -r["highest_q"])
    ]
    for r in references:
        ends = f"{r['gain_low']:+.1f} {r['gain_high']:+.1f}" if r["method"] != "bc" else ""
        cells = [r["method"].partition(" ")[0], f"{r['gain']:+.2f}", ends, ""]
        cells += [f"{r['success']:.2f}", *[""] * 4, _signed(r["overestimation"])]
        body.append(cells)
    return text_table([*header, "Q−G"], body)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _order(summary: Rows, column: str) -> str:
    """The estimators from the highest value down: a > b = c."""
    ranked = sorted(summary, key=lambda r: -float(r[column]))
    text = str(ranked[0]["estimator"])
    for before, r in pairwise(ranked):
        text += f" {'=' if r[column] == before[column] else '>'} {r['estimator']}"
    return text


def _findings(summary: Rows, compared: Mapping[str, Any]) -> list[str]:
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
