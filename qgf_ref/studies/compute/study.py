"""Test-time compute against success: best-of-N, gradient steps, guidance, and both together.

FLOPs are those of the matrix products of one action chunk (`qgf_ref.bench.counts`), the official
formulation's and what is necessary; milliseconds are measured for one observation on one thread.
Source: method.md, section 7 (paper, Fig. 6 and 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.bench.counts import Counts, count
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import OFFICIAL_GRADIENT_STEPS, Method
from qgf_ref.studies.base import Outcome, StudySettings
from qgf_ref.studies.compute.figures import panels
from qgf_ref.studies.compute.points import COSTS, Point, best, cheapest_of_the_best, frontier
from qgf_ref.studies.compute.timing import milliseconds
from qgf_ref.studies.shared.episodes import (
    Plan,
    guided_methods,
    interval_text,
    note,
    paragraphs,
    play,
    rows,
    short,
    success_columns,
)
from qgf_ref.studies.shared.trained import left_out
from qgf_ref.tables import text_table

ESTIMATORS = ("qgf",)
PLAN = Plan(selection=18, held_out=60)
QUICK_PLAN = Plan(selection=8, held_out=8)


@dataclass(frozen=True)
class Sweep:
    """What is varied: N of best-of-N, L of GradStep, T of guidance, N of guidance with best-of-N;
    weights: what guidance chooses from.
    """

    draws: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    climbs: tuple[int, ...] = tuple(range(1, 11))
    steps: tuple[int, ...] = (2, 5, 10, 20)
    guided_draws: tuple[int, ...] = (2, 4, 8, 16)
    weights: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16)
    rounds: int = 15


QUICK = Sweep((1, 4, 16), (3, 10), (5, 10), (4,), (0.02, 0.08), 5)


def study(settings: StudySettings) -> Outcome:
    """Success and cost of every method; which is cheapest among the best; who is not dominated.

    Raises InputError as `evaluate`, and when one of settings.estimators cannot run.
    """
    sweep, plan = (QUICK, QUICK_PLAN) if settings.quick else (Sweep(), PLAN)
    guided, without = guided_methods(settings, ESTIMATORS)
    if not settings.checkpoints:
        raise InputError("the study needs a trained checkpoint: give --checkpoint")
    trained = settings.checkpoints[0].options.denoise_steps
    families = methods(guided, sweep, trained)
    flat = [m for _, _, m in families]
    alone = list(dict.fromkeys(m for m in flat if not m.weighted))
    chosen = list(dict.fromkeys(m for m in flat if m.weighted))
    # apart, so that no selection episodes are spent on methods without a weight
    played = [play(settings, alone, (), plan, "unguided")]
    if chosen:
        played.append(play(settings, chosen, sweep.weights, plan, "guided"))
    cells = {c.method: c for found in played for c in found.held_out}
    ms = milliseconds(settings.checkpoints[0], list(cells.values()), sweep.rounds, settings.seed)
    points = [
        Point(family, number, cells[m], _count(settings.checkpoints[0], m), ms[m])
        for family, number, m in families
    ]
    found = {name: frontier(points, cost) for name, cost in COSTS.items()}
    cheapest = {name: cheapest_of_the_best(points, cost) for name, cost in COSTS.items()}
    table = [_row(p, found) for p in points]
    return Outcome(
        _text(settings, plan, points, found, cheapest, trained, without),
        {"": table, "episodes": rows([c for e in played for c in (*e.selection, *e.held_out)])},
        {"": panels(played[0].task, points, {k: COSTS[k] for k in ("FLOPs", "ms (numba)")})},
        {
            "rows": table,
            "weights": list(sweep.weights),
            "trained_steps": trained,
            "gradient_step_size": OFFICIAL_GRADIENT_STEPS.size,
            "best": best(points).label,
            "cheapest_of_the_best": {
                k: None if p is None else p.label for k, p in cheapest.items()
            },
            "pareto": {k: [p.label for p in each] for k, each in found.items()},
            "left_out": without,
        },
    )


def methods(guided: Sequence[Method], sweep: Sweep, trained: int) -> list[tuple[str, int, Method]]:
    """(family, number, method) of every point; T of the checkpoint itself is not an override."""
    found = [("BFN, N draws", n, Method(best_of=n)) for n in sweep.draws]
    size = OFFICIAL_GRADIENT_STEPS.size
    found += [
        ("GradStep, L steps", n, Method(gradient_steps=GradientSteps(n, size)))
        for n in sweep.climbs
    ]
    for m in guided:
        found += [
            (f"{m.label}, T steps", t, replace(m, denoise_steps=None if t == trained else t))
            for t in sweep.steps
        ]
        found += [(f"{m.label}+BFN, N draws", n, replace(m, best_of=n)) for n in sweep.guided_draws]
    return found


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


def _row(point: Point, found: dict[str, list[Point]]) -> dict[str, Any]:
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
        **{f"pareto {name}": int(point in each) for name, each in found.items()},
    }


def _text(
    settings: StudySettings,
    plan: Plan,
    points: Sequence[Point],
    found: dict[str, list[Point]],
    cheapest: dict[str, Point | None],
    trained: int,
    without: dict[str, str],
) -> str:
    header = [
        "method",
        "w",
        "success",
        "95%",
        "MFLOP",
        "necessary",
        "ms numba",
        "ms numpy",
        "Pareto",
    ]
    body = []
    for p in points:
        marks = "".join(
            mark if p in found[name] else "·" for name, mark in zip(COSTS, "Fbp", strict=True)
        )
        c = p.counts
        body.append(
            [
                short(p.label),
                "" if p.cell.weight is None else f"{p.cell.weight:g}",
                f"{p.cell.success.value:.2f}",
                interval_text(p.cell.success),
                "–" if c is None else f"{c.nominal.flops / 1e6:.2f}",
                "–" if c is None else f"{c.necessary.flops / 1e6:.2f}",
                f"{p.ms['numba']['median']:.3f}",
                f"{p.ms['numpy']['median']:.3f}",
                marks,
            ]
        )
    top = best(points)
    above = [
        "Test-time compute against success",
        note(settings, plan) + " Selection episodes only choose w.",
    ]
    below = [
        "success: held-out episodes. MFLOP: matrix products of one action chunk as the official "
        "code makes them; necessary: without those whose result is known. ms: one observation, one "
        "thread, the fastest call of a round, median of interleaved rounds. Pareto: no cheaper "
        "method succeeds more often, by F FLOPs, b time on numba, p time on numpy. GradStep: steps "
        f"of {OFFICIAL_GRADIENT_STEPS.size:g}, as the official scripts have it.",
        f"The field was trained at the times of T = {trained}: with another T it is also asked at "
        "times that it was not trained for, unless T divides that one.",
        f"Highest success: {top.label}, {top.cell.success.value:.2f}: of {len(points)} points, on "
        "the episodes that it is reported on, hence optimistic.",
    ]
    for name, least in cheapest.items():
        if least is not None:
            below.append(
                f"Cheapest that is not measurably worse (paired, 95%), by {name}: {least.label}, "
                f"{least.cell.success.value:.2f}."
            )
    below += left_out(without)
    return f"{paragraphs(above)}\n\n{text_table(header, body)}\n\n{paragraphs(below)}"
