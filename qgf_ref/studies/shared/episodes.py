"""What the studies with rollouts share: methods on the same episodes at the same weights.

Everything is played by `qgf_ref.evaluation.protocol.evaluate`: a curve over weights is that of the
selection episodes, where every weight plays the same ones; what a method is worth at the weight
chosen there is told by the held-out episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell, Evaluation, evaluate
from qgf_ref.evaluation.records import RecordsError
from qgf_ref.evaluation.rollouts import Episode
from qgf_ref.evaluation.settings import Settings
from qgf_ref.evaluation.statistics import prefixed, wilson
from qgf_ref.files import user_path
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.shared.trained import usable_estimators

WEIGHTS = tuple(0.005 * 2**k for k in range(9))
"""0.005 … 1.28 in factors of two: the paper's grid, 0.004 … 0.12, and a decade above it."""


@dataclass(frozen=True)
class EpisodePlan:
    """Episodes of each cell, over all checkpoints: they share them, so that more cost no time; and
    the weights that are tried.
    """

    selection: int
    held_out: int
    weights: tuple[float, ...] = WEIGHTS

    def of_each(self, checkpoints: int) -> tuple[int, int]:
        """Episodes of each cell and checkpoint, rounded up: selection, held out."""
        return -(-self.selection // checkpoints), -(-self.held_out // checkpoints)


QUICK_PLAN = EpisodePlan(8, 8, (0.01, 0.04, 0.16, 0.64))


def guided_methods(
    settings: StudySettings, names: Sequence[str]
) -> tuple[tuple[Method, ...], dict[str, str]]:
    """settings.estimators as methods, else those of `names` that are registered and that every
    checkpoint can run; and for each of the latter that it cannot, why.

    Raises InputError when one of settings.estimators cannot run, or none guides.
    """
    known = [n for n in names if n in learned_estimator_names()]
    usable, without = usable_estimators(settings, known)
    specs = settings.estimators or tuple(e.label for e in usable)
    methods = dict.fromkeys(Method(spec) for spec in specs)
    return tuple(m for m in methods if m.weighted), without


def play(
    settings: StudySettings, methods: Sequence[Method], plan: EpisodePlan, part: str = ""
) -> Evaluation:
    """Every method at every weight on the selection episodes, and on the held-out ones at the
    weight chosen there. An estimator with `default_weights` has those instead of the plan's.

    part  names the records of this evaluation, where a study makes several
    Raises InputError on records of another configuration, saying what to do.
    """
    if settings.task is None:
        raise InputError("the study plays episodes of a task: give --task")
    selection, held_out = plan.of_each(max(len(settings.checkpoints), 1))
    records = settings.records
    if records is not None:
        records = user_path(records) / (part or "episodes")
        records.mkdir(parents=True, exist_ok=True)
    wanted = Settings(
        methods=tuple(methods),
        weights=plan.weights,
        selection_episodes=selection,
        episodes=held_out,
        seed=settings.seed,
        workers=settings.workers,
        backend=settings.backend or "numba",
    )
    try:
        return evaluate(settings.checkpoints, settings.task, wanted, directory=records)
    except RecordsError as error:
        raise InputError(
            f"{error.reason}; give another --out, or delete {settings.records} to play anew"
        ) from error


def interval_text(row: Mapping[str, Any]) -> str:
    """Low and high of the columns of `success_columns`: 0.62–0.86."""
    return f"{row['success_low']:.2f}–{row['success_high']:.2f}"


def held_out(evaluation: Evaluation, method: Method) -> Cell:
    """The method's held-out episodes, at the weight chosen for it."""
    return next(c for c in evaluation.held_out if c.method == method)


def seeds_text(cell: Cell) -> str:
    """Lowest and highest success over checkpoints; empty for one checkpoint."""
    return f"{min(cell.rates):.2f}–{max(cell.rates):.2f}" if len(cell.rates) > 1 else ""


def success_columns(cell: Cell) -> dict[str, Any]:
    """A cell's success as columns: over all checkpoints, and lowest and highest of them."""
    return {
        "episodes": len(cell.episodes),
        **prefixed("success", cell.success),
        "success_lowest_checkpoint": min(cell.rates),
        "success_highest_checkpoint": max(cell.rates),
    }


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Success in long form: each cell over all checkpoints, then each checkpoint's own episodes."""
    table = []
    for cell in cells:
        parts: list[tuple[str, tuple[Episode, ...]]] = [("all", cell.episodes)]
        if len(cell.by_checkpoint) > 1:
            parts += [(str(i), each) for i, each in enumerate(cell.by_checkpoint)]
        for checkpoint, episodes in parts:
            rate = wilson(sum(e.success for e in episodes), len(episodes))
            table.append(
                {
                    "method": cell.method.identity,
                    "weight": cell.weight,
                    "split": cell.split,
                    "checkpoint": checkpoint,
                    "episodes": len(episodes),
                    **prefixed("success", rate),
                    "mean_return": sum(e.total_reward for e in episodes) / len(episodes),
                    "mean_length": sum(e.length for e in episodes) / len(episodes),
                }
            )
    return table


def note(settings: StudySettings, plan: EpisodePlan) -> str:
    """How many episodes a number has, and what its interval is over."""
    count = len(settings.checkpoints)
    parts = []
    for name, total in zip(("selection", "held-out"), plan.of_each(count), strict=True):
        if total:
            of = f" ({count} checkpoints × {total})" if count > 1 else ""
            parts.append(f"{total * count} {name} episodes{of}")
    over = "these checkpoints; seeds: lowest and highest of them" if count > 1 else "one checkpoint"
    return (
        f"{settings.task}. Each success: {', or '.join(parts)}, the same for every method and "
        f"weight; 95%: Wilson's interval over episodes of {over}."
    )


def short(label: str) -> str:
    """A method's label for a table: of package.module:function, the function."""
    return label.rpartition(":")[2]
