"""Work that takes no time, in place of training and evaluation: the files that real work leaves."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import numpy as np

from qgf_ref.evaluation.settings import HELD_OUT, SELECTION
from qgf_ref.files import make_directory
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.perform import Outcome
from qgf_ref.sweeps.place import write_result
from qgf_ref.sweeps.sweep import BESIDE_UPDATES, Sweep
from qgf_ref.training.record import RECORD


def perform(sweep: Sweep, job: SweepJob, threads: int = 1) -> Outcome:
    """Leave what the job would."""
    entry = sweep.spec.entry(job.entry) if job.entry else None
    if job.kind == "train":
        run, config = sweep.run(job), sweep.config(job)
        make_directory(run)
        session = {
            "from_update": 0, "to_update": config.updates, "seconds": 1.0,
            "provenance": {"processor": "one"},
        }  # fmt: skip
        assert entry is not None
        data = sweep.fingerprint(sweep.spec.problem(entry, job.task).dataset)
        content = {"config": config.to_json(), "dataset": data, "sessions": [session]}
        (run / RECORD).write_text(json.dumps(content))
    elif job.kind == "beside":
        made = sweep.run(job) / f"{job.network}.json"
        updates = sweep.spec.beside.get("updates", BESIDE_UPDATES)
        made.write_text(json.dumps({"update": updates, "config": sweep.spec.beside}))
    elif job.kind == "data":
        place = sweep.place.root / "data"
        make_directory(place)
        (place / f"{job.task}.npz").write_bytes(b"")
    else:
        assert entry is not None
        write_result(sweep.place.result(job.task, job.entry, job.value), result(sweep, job, entry))
    return Outcome(job.name, 0, 0.01, "here")


def result(sweep: Sweep, job: SweepJob, entry: SpecEntry) -> dict[str, Any]:
    """A result whose episodes depend on the names alone."""
    settings = sweep.spec.settings(entry)
    trying = job.kind == "try"
    seeds = sweep.spec.seeds_of(entry) if trying else sweep.spec.seeds
    cells = []
    for method in (entry.deciding,) if trying else settings.methods:
        for weight in settings.weights_of(method) or (None,):
            cells.append(_cell(entry, method, weight, SELECTION, seeds, settings, job))
        if not trying:
            first = next(iter(settings.weights_of(method)), None)
            cells.append(_cell(entry, method, first, HELD_OUT, seeds, settings, job))
    labels = dict.fromkeys(cell["label"] for cell in cells)
    costs = {
        "training_seconds": 1.0, "updates": 10, "machines": ["one"], "playing_seconds": 1.0,
        "milliseconds_per_chunk": dict.fromkeys(labels, 1.0),
    }  # fmt: skip
    return {
        "identity": sweep.identity(job.task, entry, job.value),
        "data": sweep.fingerprint(sweep.spec.problem(entry, job.task).dataset),
        "chosen": "" if trying else sweep.chosen(job.task, entry),
        "tried": [], "cells": cells, "costs": costs, "provenance": {},
    }  # fmt: skip


def _cell(
    entry: SpecEntry,
    method: Any,
    weight: float | None,
    split: str,
    seeds: Any,
    settings: Any,
    job: SweepJob,
) -> dict[str, Any]:
    count = settings.selection_episodes if split == SELECTION else settings.episodes
    named = f"{entry.label(method)} {weight} {split} {job.task} {job.value}"
    rng = np.random.default_rng(crc32(named.encode()))
    rate = crc32(named.split()[0].encode()) % 100 / 100
    by_seed = []
    for _ in seeds:
        wins = (rng.random(count) < rate).astype(int).tolist()
        returns = [float(100 * w - 100) for w in wins]
        by_seed.append({"wins": wins, "returns": returns, "lengths": [7] * count})
    return {
        "label": entry.label(method), "method": method.identity, "weight": weight, "split": split,
        "by_seed": by_seed, "critic_bias": 0.5, "critic_rank": None,
    }  # fmt: skip
