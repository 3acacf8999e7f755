"""FLOPs of an entry's training and of its methods' chunks: what costs the same on every machine."""

from __future__ import annotations

from typing import Any

from qgf_ref.bench.flop_count import chunk_flops, update_flops
from qgf_ref.interop.load import load
from qgf_ref.interop.native import MODEL
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.loading import checkpoints
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.training.record import Record


def flops(sweep: Sweep, name: str, entry: SpecEntry, value: str) -> dict[str, Any]:
    """Of the runs of a value: "flops_per_update", and "flops_per_chunk" of every method's label.

    Matrix products of the first run's networks; empty where that is not there any more.
    """
    seed = sweep.spec.seeds_of(entry)[0] if value else sweep.spec.seeds[0]
    (run,) = sweep.runs(name, entry, value, (seed,))
    if not (run / MODEL).exists():
        return {}
    (checkpoint,) = checkpoints(sweep, name, entry, value, (seed,))
    trained = load(run, dtype="float32")
    rows = Record.read(run).config.batch
    chunks = {}
    for method in sweep.spec.settings(entry).methods:
        how = method.acting(1.0 if method.weighted else None)
        chunks[entry.label(method)] = chunk_flops(checkpoint, how)
    return {"flops_per_update": update_flops(trained, rows), "flops_per_chunk": chunks}
