"""Success against the guidance weight, per estimator: how wide the good range is, where it ends.

Source: method.md, section 7 (paper, Fig. 20); the protocol is that of section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.plots import weights_figure
from qgf_ref.evaluation.protocol import Cell, Evaluation, best
from qgf_ref.evaluation.statistics import paired_difference
from qgf_ref.studies.base import Outcome, StudySettings
from qgf_ref.studies.shared.episodes import (
    QUICK_WEIGHTS,
    WEIGHTS,
    Plan,
    guided_methods,
    interval_text,
    note,
    paragraphs,
    play,
    rows,
    seeds_text,
    short,
    success_columns,
)
from qgf_ref.studies.shared.trained import left_out
from qgf_ref.studies.weights.figures import panels
from qgf_ref.tables import text_table

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
PLAN = Plan(selection=24, held_out=60)
QUICK_PLAN = Plan(selection=8, held_out=8)
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


def study(settings: StudySettings) -> Outcome:
    """Every estimator over the grid of weights, BC beside it; the chosen weight on other episodes.

    Raises InputError as `evaluate`, and when one of settings.estimators cannot run.
    """
    names = QUICK_ESTIMATORS if settings.quick else ESTIMATORS
    plan = QUICK_PLAN if settings.quick else PLAN
    guided, without = guided_methods(settings, names)
    grid = QUICK_WEIGHTS if settings.quick else WEIGHTS
    found = play(settings, (Method(), *guided), grid, plan)
    curves = {m: Curve(found.curve(m)) for m in guided}
    summary = [_summary(found, m, curve) for m, curve in curves.items()]
    figures = {"": panels(found, {m: c.plateau for m, c in curves.items()})}
    overview = weights_figure(found)
    if overview is not None:
        figures["overview"] = overview
    bc = found.held_out[0]
    details: dict[str, Any] = {
        "weights": list(grid),
        "summary": summary,
        "bc": success_columns(bc),
        "left_out": without,
    }
    return Outcome(
        _text(settings, plan, bc, summary, without),
        {"": rows((*found.selection, *found.held_out)), "summary": summary},
        figures,
        details,
    )


def _summary(found: Evaluation, method: Method, curve: Curve) -> dict[str, Any]:
    """What the text and pages say of one estimator."""
    held = next(c for c in found.held_out if c.method == method)
    reference = next((c for c in found.held_out if c.method == _REFERENCE), None)
    low, high = curve.plateau
    row: dict[str, Any] = {
        "estimator": method.label,
        "chosen_weight": held.weight,
        **success_columns(held),
        "optimistic": found.optimistic(method),
        "own_grid": method.own_weights is not None,
        "plateau_low": low,
        "plateau_high": high,
        "width": high / low,
        "plateau_at_the_grids_end": high == _weight(curve.cells[-1]),
        "collapse": curve.collapse,
        "seeds": seeds_text(held),
    }
    if reference is not None and reference is not held:
        wins = ([e.success for e in c.episodes] for c in (held, reference))
        difference = paired_difference(*wins)
        row |= {
            "minus_qgf": difference.value,
            "minus_qgf_low": difference.low,
            "minus_qgf_high": difference.high,
        }
    return row


def _text(
    settings: StudySettings,
    plan: Plan,
    bc: Cell,
    summary: list[dict[str, Any]],
    without: dict[str, str],
) -> str:
    header = ["estimator", "w", "success", "95%", "− qgf 95%", "max", "plateau", "half at"]
    several = len(settings.checkpoints) > 1
    if several:
        header.insert(4, "seeds")
    body = []
    for row in summary:
        line = [
            short(row["estimator"]),
            f"{row['chosen_weight']:g}",
            f"{row['success']:.2f}",
            f"{row['success_low']:.2f}–{row['success_high']:.2f}",
            f"{row['minus_qgf_low']:+.2f} {row['minus_qgf_high']:+.2f}"
            if "minus_qgf" in row
            else "",
            f"{row['optimistic']:.2f}",
            f"{row['plateau_low']:g}–{row['plateau_high']:g}",
            "–" if row["collapse"] is None else f"{row['collapse']:g}",
        ]
        if several:
            line.insert(4, row["seeds"])
        body.append(line)
    rate = max(row["success"] for row in summary)
    # a weight of another scale cannot be compared, nor a plateau of failures
    alike = [row for row in summary if not row["own_grid"] and row["optimistic"] > 0]
    width = max((row["width"] for row in alike), default=None)
    first = min((row["collapse"] for row in alike if row["collapse"] is not None), default=None)

    def named(column: str, value: Any, among: list[dict[str, Any]]) -> str:
        return ", ".join(row["estimator"] for row in among if row[column] == value)

    above = [
        "Success against the guidance weight w",
        note(settings, plan),
        f"BC, without guidance: {bc.success.value:.2f} ({interval_text(bc.success)}), held out.",
    ]
    below = [
        "success: held out, at the w that was chosen on the selection episodes. − qgf: 95% of the "
        "paired difference to qgf at its own w. max: optimistic, the maximum over weights on the "
        "selection episodes. plateau: weights around the best whose success on the selection "
        "episodes lies within the best one's 95% interval. half at: the "
        "first w above the best with at most half its success (–: none on the grid).",
        f"Highest held-out success: {named('success', rate, summary)}, {rate:.2f}."
        + (
            ""
            if width is None
            else f" Widest plateau (as far as the grid goes): {named('width', width, alike)}, a "
            f"factor of {width:.0f}."
        ),
        "No estimator falls to half its best success on this grid."
        if first is None
        else f"First to fall to half its best success: {named('collapse', first, alike)}, at "
        f"w = {first:g}.",
        *left_out(without),
    ]
    return f"{paragraphs(above)}\n\n{text_table(header, body)}\n\n{paragraphs(below)}"


def _weight(cell: Cell) -> float:
    assert cell.weight is not None
    return cell.weight
