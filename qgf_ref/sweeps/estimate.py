"""What a sweep will cost, before it runs: from runs of its own that are there, else from ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.sweep import BESIDE_UPDATES, Sweep
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import RECORD, Record

SECONDS = {"iql": 1 / 60, "edp": 1 / 55, "fql": 1 / 30, "qam": 1 / 10, "dac": 1 / 35, "qsm": 1 / 40}
"""Of one update of 3×256 at batch 256 on one core, roughly; of other agents as of iql. A guess to
plan with: as soon as a sweep has a run of an agent, its own rate counts.
"""
_WEIGHTS, _BATCH = 3 * 256**2, 256
EPISODE_SECONDS = 1.0
"""Of one episode, simulator included: a guess, too."""
BYTES_PER_WEIGHT = 100
"""On disk, of a run: parameters, moments and averages of some five networks, twice."""


@dataclass(frozen=True)
class Cost:
    """core_hours, and bytes on disk."""

    core_hours: float
    bytes: float


def cost(sweep: Sweep, jobs: list[SweepJob]) -> Cost:
    """An estimate for these jobs, to plan with."""
    measured = _measured(sweep)
    seconds = size = 0.0
    for job in jobs:
        if job.kind == "data":
            continue
        entry = sweep.spec.entry(job.entry)
        value = entry.values[0] if entry.values else ""
        config = sweep.spec.config(entry, job.task, sweep.spec.seeds[0], value)
        if job.kind == "train":
            seconds += config.updates * measured.get(entry.name, _update(config))
            size += BYTES_PER_WEIGHT * _weights(config)
        elif job.kind == "beside":
            updates = sweep.spec.beside.get("updates", BESIDE_UPDATES)
            seconds += updates * _update(config) / 3
        else:
            settings = sweep.spec.settings(entry)
            rows = sum(max(len(settings.weights_of(m)), 1) for m in settings.methods)
            selects = settings.selects or job.kind == "try"
            episodes = rows * settings.selection_episodes if selects else 0
            seeds = sweep.spec.seeds_of(entry) if job.kind == "try" else sweep.spec.seeds
            if job.kind == "evaluate":
                episodes += len(settings.methods) * settings.episodes
            seconds += len(seeds) * episodes * EPISODE_SECONDS
    return Cost(seconds / 3600, size)


def _update(config: TrainConfig) -> float:
    """Seconds of one update on one core."""
    scale = max(_weights(config) / _WEIGHTS * config.batch / _BATCH, 0.2)
    return SECONDS.get(config.agent, SECONDS["iql"]) * scale


def _weights(config: TrainConfig) -> int:
    """Of the hidden layers of one network, about."""
    widths = config.hidden
    return sum(math.prod(pair) for pair in zip((widths[0], *widths), widths, strict=False))


def _measured(sweep: Sweep) -> dict[str, float]:
    """Seconds of an update of each entry that has a run in the sweep's directory."""
    found: dict[str, float] = {}
    for entry in sweep.spec.entries:
        for path in (sweep.place.root / "runs").glob(f"*/{entry.name}/**/{RECORD}"):
            for session in Record.read(path.parent).sessions:
                if session.get("updates_per_second"):
                    found[entry.name] = 1 / session["updates_per_second"]
    return found
