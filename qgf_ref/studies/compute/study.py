"""Test-time compute against success: best-of-N, gradient steps, guidance, and both together.

FLOPs are those of the matrix products of one action chunk (`qgf_ref.bench.counts`), the official
formulation's and what is necessary; milliseconds are measured for one observation on one thread.
Source: method.md, section 7 (paper, Fig. 6 and 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.bench.counts import Counts, count
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import OFFICIAL_GRADIENT_STEPS, Method
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.compute.points import COSTS, CostPoint, best, cheapest_of_the_best, frontier
from qgf_ref.studies.compute.timing import milliseconds
from qgf_ref.studies.compute.words import report
from qgf_ref.studies.shared.episodes import (
    QUICK_PLAN,
    EpisodePlan,
    guided_methods,
    note,
    play,
    rows,
    success_columns,
)

ESTIMATORS = ("qgf",)
PLAN = EpisodePlan(selection=18, held_out=60)


@dataclass(frozen=True)
class ComputeGrid:
    """What is varied: N of best-of-N, L of GradStep, T of guidance, N of guidance with best-of-N;
    weights: what guidance chooses from.
    """

    draws: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    climbs: tuple[int, ...] = tuple(range(1, 11))
    steps: tuple[int, ...] = (2, 5, 10, 20)
    guided_draws: tuple[int, ...] = (2, 4, 8, 16)
    weights: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16)
    rounds: int = 15


QUICK = ComputeGrid((1, 4, 16), (3, 10), (5, 10), (4,), (0.02, 0.08), 5)


def study(settings: StudySettings) -> StudyOutcome:
    """Success and cost of every method; which is cheapest among the best; who is not dominated.

    Raises InputError as `evaluate`, and when one of settings.estimators cannot run.
    """
    sweep, plan = (QUICK, QUICK_PLAN) if settings.quick else (ComputeGrid(), PLAN)
    guided, without = guided_methods(settings, ESTIMATORS)
    if not settings.checkpoints:
        raise InputError("the study needs a trained checkpoint: give --checkpoint")
    trained = settings.checkpoints[0].options.denoise_steps
    families = methods(guided, sweep, trained)
    flat = [m for _, _, m in families]
    alone = list(dict.fromkeys(m for m in flat if not m.weighted))
    chosen = list(dict.fromkeys(m for m in flat if m.weighted))
    # apart, so that no selection episodes are spent on methods without a weight
    evaluations = [play(settings, alone, replace(plan, weights=()), "unguided")]
    if chosen:
        evaluations.append(play(settings, chosen, replace(plan, weights=sweep.weights), "guided"))
    cells = {c.method: c for e in evaluations for c in e.held_out}
    ms = milliseconds(settings.checkpoints[0], list(cells.values()), sweep.rounds, settings.seed)
    points = [
        CostPoint(family, number, cells[m], _count(settings.checkpoints[0], m), ms[m])
        for family, number, m in families
    ]
    fronts = {name: frontier(points, cost) for name, cost in COSTS.items()}
    cheapest = {name: cheapest_of_the_best(points, cost) for name, cost in COSTS.items()}
    table = [_row(p, fronts) for p in points]
    episodes = rows([c for e in evaluations for c in (*e.selection, *e.held_out)])
    return StudyOutcome(
        report(note(settings, plan), points, fronts, cheapest, trained, without),
        {"": table, "episodes": episodes},
        {
            "rows": table,
            "weights": list(sweep.weights),
            "trained_steps": trained,
            "gradient_step_size": OFFICIAL_GRADIENT_STEPS.size,
            "best": best(points).label,
            "cheapest_of_the_best": {
                k: None if p is None else p.label for k, p in cheapest.items()
            },
            "pareto": {k: [p.label for p in front] for k, front in fronts.items()},
            "left_out": without,
        },
    )


def methods(
    guided: Sequence[Method], sweep: ComputeGrid, trained: int
) -> list[tuple[str, int, Method]]:
    """(family, number, method) of every point; T of the checkpoint itself is not an override."""
    size = OFFICIAL_GRADIENT_STEPS.size
    climbing = [Method(gradient_steps=GradientSteps(n, size)) for n in sweep.climbs]
    families = [("BFN, N draws", n, Method(best_of=n)) for n in sweep.draws]
    families += [("GradStep, L steps", n, m) for n, m in zip(sweep.climbs, climbing, strict=True)]
    for m in guided:
        stepping = [replace(m, denoise_steps=None if t == trained else t) for t in sweep.steps]
        families += [
            (f"{m.label}, T steps", t, each) for t, each in zip(sweep.steps, stepping, strict=True)
        ]
        families += [
            (f"{m.label}+BFN, N draws", n, replace(m, best_of=n)) for n in sweep.guided_draws
        ]
    return families


def _count(checkpoint: Checkpoint, method: Method) -> Counts | None:
    climb = method.gradient_steps
    return count(
        checkpoint,
        method.estimator,
        1,
        method.denoise_steps,
        best_of=method.best_of,
        gradient_steps=0 if climb is None else climb.steps,
    )


def _row(point: CostPoint, fronts: Mapping[str, Sequence[CostPoint]]) -> dict[str, Any]:
    counts = point.counts
    return {
        "family": point.family,
        "number": point.number,
        "method": point.cell.method.identity,
        "weight": point.cell.weight,
        **success_columns(point.cell),
        "flops_nominal": None if counts is None else counts.nominal.flops,
        "flops_necessary": None if counts is None else counts.necessary.flops,
        **{
            f"ms_{backend}{'' if k == 'median' else '_' + k}": spread[k]
            for backend, spread in point.ms.items()
            for k in ("median", "q25", "q75")
        },
        **{f"pareto {name}": int(point in front) for name, front in fronts.items()},
    }
