"""Success against the guidance weight, per estimator: how wide the good range is, where it ends.

Source: method.md, section 7 (paper, Fig. 20); the protocol is that of section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell, Evaluation, best
from qgf_ref.evaluation.statistics import paired_difference, prefixed
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.shared.episodes import (
    QUICK_PLAN,
    EpisodePlan,
    guided_methods,
    held_out,
    note,
    play,
    rows,
    seeds_text,
    success_columns,
)
from qgf_ref.studies.weights.words import report

ESTIMATORS = (
    "ood",
    "qgf",
    "qgf_jacobian",
    "bptt",
    "qgf_chain",
    "qgf_shifted",
    "robust_q",
    "cfgrl",
    "qgf_distill",
    "qgf_jacobian_distill",
)
QUICK_ESTIMATORS = ("ood", "qgf", "qgf_jacobian", "bptt")
PLAN = EpisodePlan(selection=24, held_out=60)
_REFERENCE = Method("qgf")


@dataclass(frozen=True)
class Curve:
    """One estimator's success over weights, on the selection episodes."""

    cells: tuple[Cell, ...]

    @property
    def best(self) -> Cell:
        """The cell whose weight the protocol chooses."""
        return best(self.cells)

    @property
    def plateau(self) -> tuple[float, float]:
        """Least and greatest of the neighbouring weights, the best among them, whose success is
        within the best one's interval: at least its low end.
        """
        weights = [_weight(c) for c in self.cells]
        good = [c.success.value >= self.best.success.low for c in self.cells]
        first = last = self.cells.index(self.best)
        while first > 0 and good[first - 1]:
            first -= 1
        while last < len(good) - 1 and good[last + 1]:
            last += 1
        return weights[first], weights[last]

    @property
    def collapse(self) -> float | None:
        """The first weight above the best one with at most half its success; None: not reached."""
        chosen = self.best
        above = [c for c in self.cells if _weight(c) > _weight(chosen)]
        low = [c for c in above if c.success.value <= chosen.success.value / 2]
        return _weight(low[0]) if low and chosen.success.value > 0 else None


def study(settings: StudySettings) -> StudyOutcome:
    """Every estimator over the grid of weights, BC beside it; the chosen weight on other episodes.

    Raises InputError as `evaluate`, and when one of settings.estimators cannot run.
    """
    plan = QUICK_PLAN if settings.quick else PLAN
    guided, without = guided_methods(settings, QUICK_ESTIMATORS if settings.quick else ESTIMATORS)
    evaluation = play(settings, (Method(), *guided), plan)
    summary = [_summary(evaluation, m) for m in guided]
    bc = success_columns(evaluation.held_out[0])
    return StudyOutcome(
        report(note(settings, plan), bc, summary, without),
        {"": rows((*evaluation.selection, *evaluation.held_out)), "summary": summary},
        {"weights": list(plan.weights), "summary": summary, "bc": bc, "left_out": without},
    )


def _summary(evaluation: Evaluation, method: Method) -> dict[str, Any]:
    """What the text and pages say of one estimator."""
    reported = held_out(evaluation, method)
    curve = Curve(evaluation.curve(method))
    low, high = curve.plateau
    row: dict[str, Any] = {
        "estimator": method.label,
        "chosen_weight": reported.weight,
        **success_columns(reported),
        "optimistic": evaluation.optimistic(method),
        "own_grid": method.own_weights is not None,
        "plateau_low": low,
        "plateau_high": high,
        "width": high / low,
        "plateau_at_the_grids_end": high == _weight(curve.cells[-1]),
        "collapse": curve.collapse,
        "seeds": seeds_text(reported),
    }
    if _REFERENCE in evaluation.settings.methods and method != _REFERENCE:
        reference = held_out(evaluation, _REFERENCE)
        wins = ([e.success for e in c.episodes] for c in (reported, reference))
        row |= prefixed("minus_qgf", paired_difference(*wins))
    return row


def _weight(cell: Cell) -> float:
    assert cell.weight is not None
    return cell.weight
