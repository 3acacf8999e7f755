"""Do guided flows gain from larger networks, and more so than a flow trained with the critic?

Networks of several widths and depths are trained for `iql`, whose flow only clones and is guided at
test time, and for `edp`, whose flow is trained with the critic's gradient: each with the weight
that selection episodes choose. Source: method.md, section 7 (paper, Fig. 9).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError
from qgf_ref.evaluation.settings import HELD_OUT
from qgf_ref.evaluation.statistics import paired_difference, prefixed, student_mean, wilson
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.scaling.ladders import METHODS, SizeResults, slopes
from qgf_ref.studies.scaling.measures import HeldOutData, measured, saved, updates_per_second
from qgf_ref.studies.scaling.runs import worked_off
from qgf_ref.studies.scaling.sizes import GRID, GUIDED, QUICK, TASK, TRAINED, NetworkSize
from qgf_ref.studies.scaling.words import report
from qgf_ref.sweeps.sweep import Sweep

RIVAL = "edp"
"""What differences are taken to."""


def study(settings: StudySettings) -> StudyOutcome:
    """Train and play every size, measure its runs; slopes along width and along depth.

    Raises InputError as `worked_off`, and on estimators: the study compares qgf with edp.
    """
    if settings.estimators is not None:
        raise InputError("the study compares qgf with edp on every size: it takes no --estimators")
    grid, name = QUICK if settings.quick else GRID, settings.task or TASK
    sweep = worked_off(grid.spec(name, settings.seed), settings)
    every = _measure(sweep, name, grid.sizes, grid.timing_rounds)
    success = [row for each in every for row in _success(each)]
    costs = [row for each in every for row in _costs(each)]
    by_size = {each.size: each for each in every}
    steep = [
        row
        for ladder, sizes in grid.ladders.items()
        for row in slopes(ladder, [by_size[size] for size in sizes])
    ]
    ladders = {ladder: [str(s) for s in sizes] for ladder, sizes in grid.ladders.items()}
    details = {
        "task": name, "seeds": list(sweep.spec.seeds), "updates": grid.updates,
        "weights": list(grid.weights), "bc_weights": list(grid.bc_weights),
        "selection_episodes": grid.selection, "episodes": grid.held_out, "ladders": ladders,
        "sweep_seconds": round(sum(_seconds(sweep, name)), 1),
        "bc_rise": max(run["bc_rise"] for each in every for run in each.runs[GUIDED]),
    }  # fmt: skip
    return StudyOutcome(
        report(details, success, costs, steep),
        {"": success, "costs": costs, "slopes": steep, "runs": _runs(every)},
        {**details, "success": success, "costs": costs, "slopes": steep},
    )


def _measure(
    sweep: Sweep, name: str, sizes: Sequence[NetworkSize], rounds: int
) -> list[SizeResults]:
    runs: dict[tuple[NetworkSize, str], list[Path]] = {}
    for size in sizes:
        for agent in (GUIDED, TRAINED):
            entry = sweep.spec.entry(size.entry(agent))
            chosen = sweep.chosen(name, entry)
            assert chosen is not None, "everything was done"
            runs[size, agent] = sweep.runs(name, entry, chosen, sweep.spec.seeds)
    data = HeldOutData.of(saved(runs[sizes[0], GUIDED][0])[0])
    first = {size.entry(agent): paths[0] for (size, agent), paths in runs.items()}
    speed = updates_per_second(first, data, rounds)
    made = []
    for size in sizes:
        wins: dict[str, list[list[int]]] = {}
        chosen_by: dict[str, str] = {}
        critic: dict[str, float | None] = {}
        for method, agent in METHODS.items():
            result = sweep.result(name, sweep.spec.entry(size.entry(agent)))
            assert result is not None, "everything was done"
            played = "bc" if method == RIVAL else method  # edp acts by its flow alone
            cell = next(
                c for c in result["cells"] if (c["split"], c["method"]) == (HELD_OUT, played)
            )
            wins[method] = [each["wins"] for each in cell["by_seed"]]
            critic[method] = cell["critic_bias"]
            weight = "" if cell["weight"] is None else f"w={cell['weight']:g}"
            chosen_by[method] = result["chosen"] or weight
        of_runs = {agent: [measured(run, data) for run in runs[size, agent]]
                   for agent in (GUIDED, TRAINED)}  # fmt: skip
        updates = {agent: speed[size.entry(agent)] for agent in (GUIDED, TRAINED)}
        made.append(SizeResults(size, of_runs, wins, chosen_by, updates, critic))
    return made


def _seconds(sweep: Sweep, name: str) -> Iterator[float]:
    """What training and playing took, of every entry and of every value that was tried."""
    for entry in sweep.spec.entries:
        trained: dict[str, float] = {}
        for value in ("", *entry.values):
            costs = (sweep.result(name, entry, value) or {}).get("costs", {})
            trained[value] = costs.get("training_seconds", 0.0)
            yield costs.get("playing_seconds", 0.0)
        chosen = sweep.chosen(name, entry)
        # the chosen value's runs are among the entry's, too
        yield sum(seconds for value, seconds in trained.items() if not value or value != chosen)


def _of(each: SizeResults) -> dict[str, Any]:
    size = each.size
    return {"size": str(size), "depth": size.depth, "width": size.width,
            "parameters": each.parameters}  # fmt: skip


def _success(each: SizeResults) -> list[dict[str, Any]]:
    """A row for each method: success with both intervals, and its paired difference to edp."""
    table = []
    for method, agent in METHODS.items():
        wins = each.flat(method)
        to_rival = None
        if method != RIVAL:
            flags = [[bool(w) for w in each.flat(m)] for m in (method, RIVAL)]
            to_rival = paired_difference(*flags)
        table.append(
            {
                "method": method, "agent": agent, **_of(each), "episodes": len(wins),
                **prefixed("success", wilson(sum(wins), len(wins))),
                **prefixed("seeds_success", student_mean(each.success(method))),
                **prefixed("minus_edp", to_rival), "critic_bias": each.critic[method],
                "chosen": each.chosen[method],
            }
        )  # fmt: skip
    return table


def _costs(each: SizeResults) -> list[dict[str, Any]]:
    """A row for each agent: losses with Student's t over training seeds, speed, memory."""
    return [
        {
            "agent": agent, **_of(each),
            **prefixed("bc_loss", student_mean(each.of_runs(agent, "bc_loss"))),
            **prefixed("critic_loss", student_mean(each.of_runs(agent, "critic_loss"))),
            **prefixed("q", student_mean(each.of_runs(agent, "q"))),
            "updates_per_second": each.updates[agent],
            "state_bytes": each.runs[agent][0]["state_bytes"],
            "peak_process_bytes": _most(each.runs[agent], "peak_process_bytes"),
        }
        for agent in (GUIDED, TRAINED)
    ]  # fmt: skip


def _runs(every: Sequence[SizeResults]) -> list[dict[str, Any]]:
    """A row for each run, its success by method with it."""
    return [
        {
            "agent": agent, **_of(each), **run,
            **{f"success_{method}": each.success(method)[i] if METHODS[method] == agent else None
               for method in METHODS},
        }
        for each in every
        for agent in (GUIDED, TRAINED)
        for i, run in enumerate(each.runs[agent])
    ]  # fmt: skip


def _most(runs: Sequence[Any], quantity: str) -> int | None:
    return max((run[quantity] for run in runs if run[quantity] is not None), default=None)
