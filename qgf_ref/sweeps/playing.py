"""Playing the runs of a sweep, and what of it is kept: the result files that tables are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qgf_ref.evaluation.critic_error import chunks, critic_error
from qgf_ref.evaluation.protocol import Cell, evaluate, selection
from qgf_ref.provenance import provenance
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.flops import flops
from qgf_ref.sweeps.loading import checkpoints
from qgf_ref.sweeps.place import make_directories, write_result
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.training.record import Record


def play(sweep: Sweep, name: str, entry: SpecEntry) -> None:
    """Evaluate an entry's runs of a task, and write the result."""
    value = sweep.chosen(name, entry)
    assert value is not None, "the choice is a job before this one"
    runs = sweep.runs(name, entry, value, sweep.spec.seeds)
    settings, place = sweep.spec.settings(entry), sweep.place.records(name, entry.name)
    make_directories(place)
    played = checkpoints(sweep, name, entry, value, sweep.spec.seeds)
    found = evaluate(played, name, settings, directory=place)
    tried = [sweep.result(name, entry, each) for each in entry.values]
    cells = [*found.selection, *found.held_out]
    write_result(
        sweep.place.result(name, entry.name),
        {
            "identity": sweep.identity(name, entry),
            "data": sweep.fingerprint(sweep.spec.problem(entry, name).dataset),
            "chosen": value,
            "tried_by": entry.deciding.identity if entry.values else None,
            "tried": [_summary(each, entry) for each in tried if each is not None],
            "cells": [_cell(cell, entry) for cell in cells],
            "costs": {**_costs(runs, entry, cells), **flops(sweep, name, entry, value)},
            "provenance": found.provenance,
        },
    )


def try_value(sweep: Sweep, name: str, entry: SpecEntry, value: str) -> None:
    """Play the runs of one value on the selection episodes, and write the result."""
    seeds = sweep.spec.seeds_of(entry)
    runs = sweep.runs(name, entry, value, seeds)
    settings = replace(sweep.spec.settings(entry), methods=(entry.deciding,))
    place = sweep.place.records(name, entry.name, value)
    make_directories(place)
    played = checkpoints(sweep, name, entry, value, seeds)
    cells = selection(played, name, settings, directory=place)
    write_result(
        sweep.place.result(name, entry.name, value),
        {
            "identity": sweep.identity(name, entry, value),
            "data": sweep.fingerprint(sweep.spec.problem(entry, name).dataset),
            "cells": [_cell(cell, entry) for cell in cells],
            "costs": {**_costs(runs, entry, cells), **flops(sweep, name, entry, value)},
            "provenance": provenance(),
        },
    )


def _cell(cell: Cell, entry: SpecEntry) -> dict[str, Any]:
    """A cell as JSON, without what depends on the machine's speed."""
    error = critic_error(chunks(cell))
    return {
        "label": entry.label(cell.method),
        "method": cell.method.identity,
        "weight": cell.weight,
        "split": cell.split,
        "by_seed": [
            {
                "wins": [int(e.success) for e in episodes],
                "returns": [e.total_reward for e in episodes],
                "lengths": [e.length for e in episodes],
            }
            for episodes in cell.by_checkpoint
        ],
        "critic_bias": None if error is None else error.bias.value,
        "critic_rank": None if error is None else error.rank,
    }


def _summary(tried: dict[str, Any], entry: SpecEntry) -> dict[str, Any]:
    """What of a tried value the result of the choice repeats."""
    best = [(sum(map(sum, (s["wins"] for s in c["by_seed"]))), c) for c in tried["cells"]]
    wins, cell = max(best, key=lambda pair: pair[0])
    episodes = sum(len(s["wins"]) for s in cell["by_seed"])
    return {"value": tried["identity"]["value"], "success": wins / episodes, "episodes": episodes}


def _costs(runs: Sequence[Path], entry: SpecEntry, cells: Sequence[Cell]) -> dict[str, Any]:
    """What it took: differs from machine to machine, and is in no table of results."""
    sessions = [s for run in runs for s in Record.read(run).sessions]
    played = {entry.label(c.method): (c, sum(len(e.steps) for e in c.episodes)) for c in cells}
    steps = {label: 1e3 * c.sampling_seconds / max(n, 1) for label, (c, n) in played.items()}
    return {
        "training_seconds": round(sum(s.get("seconds", 0.0) for s in sessions), 1),
        "updates": sum(Record.read(run).last_update for run in runs),
        "machines": sorted({s["provenance"]["processor"] for s in sessions}),
        "milliseconds_per_chunk": {k: round(v, 4) for k, v in steps.items()},
        "playing_seconds": round(sum(c.sampling_seconds + c.stepping_seconds for c in cells), 1),
    }
