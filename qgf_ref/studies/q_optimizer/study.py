"""Each estimator as an optimiser of the critic: Q of its final actions beside its success rate.

Q is measured on fixed observations with fixed noise, the same for all: on the states that a method
visits, a good method's Q would be high because its states are. Over the weights, Q rises to the
highest that the estimator reaches; the paper's claim is that `ood` reaches the highest Q and the
lowest success. Source: method.md, section 7 (paper, Fig. 4 and 15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_ref.evaluation.methods import Method, parse_methods
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.statistics import prefixed, rank_correlation
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.q_optimizer.points import (
    ROWS,
    QPoint,
    at_equal_q,
    fixed_observations,
    optimised,
)
from qgf_ref.studies.q_optimizer.words import report
from qgf_ref.studies.shared.episodes import (
    QUICK_PLAN,
    EpisodePlan,
    guided_methods,
    held_out,
    note,
    play,
    rows,
    success_columns,
)

ESTIMATORS = ("ood", "qgf", "qgf_jacobian", "bptt", "qgf_chain", "qgf_shifted")
QUICK_ESTIMATORS = ("ood", "qgf", "bptt")
REFERENCES = parse_methods(("bc", "bfn-16", "gradstep"))
PLAN = EpisodePlan(selection=24, held_out=48)
_OOD, _QGF = Method("ood"), Method("qgf")


def study(settings: StudySettings) -> StudyOutcome:
    """Q of the final action and success over the grid of weights, for every estimator.

    Raises InputError as `evaluate` and `observations`, and when one of settings.estimators cannot
    run.
    """
    plan = QUICK_PLAN if settings.quick else PLAN
    guided, without = guided_methods(settings, QUICK_ESTIMATORS if settings.quick else ESTIMATORS)
    states = fixed_observations(settings)  # what is missing is told before anything is played
    evaluation = play(settings, (*REFERENCES, *guided), plan)
    points = optimised(settings, evaluation.selection, states)
    curves = {m: [p for p in points if p.method == m] for m in guided}
    summary = [_summary(held_out(evaluation, m), curve) for m, curve in curves.items()]
    compared = _comparison(points, curves, summary)
    table = [_row(p) for p in points]
    references = [row for row in table if row["weight"] is None]
    episodes = rows((*evaluation.selection, *evaluation.held_out))
    return StudyOutcome(
        report(settings, note(settings, plan), references, summary, compared, without),
        {"": table, "summary": summary, "episodes": episodes},
        {
            "weights": list(plan.weights),
            "rows": ROWS,
            "summary": summary,
            "references": references,
            "comparison": compared,
            "left_out": without,
        },
    )


def _row(point: QPoint) -> dict[str, Any]:
    """A point in long form."""
    return {
        "method": point.method.identity,
        "weight": point.cell.weight,
        **prefixed("q", point.q),
        **prefixed("gain", point.gain),
        **success_columns(point.cell),
        **prefixed("overestimation", point.overestimation),
    }


def _summary(reported: Cell, curve: Sequence[QPoint]) -> dict[str, Any]:
    """One estimator: where its Q is highest, and where its success is."""
    top = max(curve, key=lambda p: p.q.value)
    chosen = next(p for p in curve if p.cell.weight == reported.weight)
    over = chosen.overestimation
    return {
        "estimator": reported.method.label,
        "weight_of_highest_q": top.cell.weight,
        "highest_q": top.q.value,
        **prefixed("gain_there", top.gain),
        **prefixed("success_there", top.cell.success),
        "chosen_weight": reported.weight,
        "q_at_chosen": chosen.q.value,
        "gain_at_chosen": chosen.gain.value,
        **success_columns(reported),
        "overestimation_at_chosen": None if over is None else over.value,
    }


def _comparison(
    points: Sequence[QPoint],
    curves: Mapping[Method, Sequence[QPoint]],
    summary: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Rank correlations, and ood against qgf at the same Q (None where they were not played)."""

    def rho(pairs: Sequence[tuple[float, float]]) -> float | None:
        x, y = np.array(pairs).T
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
