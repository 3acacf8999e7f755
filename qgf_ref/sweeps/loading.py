"""The networks of a sweep's runs as they are played."""

from __future__ import annotations

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.interop.load import load
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.sweep import Sweep


def checkpoints(
    sweep: Sweep, name: str, entry: SpecEntry, value: str, seeds: tuple[int, ...]
) -> list[Checkpoint]:
    """Of an entry's runs, seed by seed; with `SpecEntry.policy`, another entry's flow under their
    critics.
    """
    runs = sweep.runs(name, entry, value, seeds)
    own = [load(run, dtype="float32", settings=entry.acting or None) for run in runs]
    if not entry.policy:
        return own
    flows = sweep.runs(name, sweep.spec.entry(entry.policy), "", seeds)
    return [
        load(policy=flow, critic=critic, dtype="float32")
        for flow, critic in zip(flows, own, strict=True)
    ]
