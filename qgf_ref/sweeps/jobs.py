"""The jobs of a sweep, and what each of them needs.

data      a data set is found, downloaded, or made
train     one run; of the value that was chosen, where some were tried
beside    an auxiliary network beside a run
try       a tried value's runs are played on the selection episodes
evaluate  an entry's runs of a task are played: weights on the selection episodes, then held out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.spec import SweepSpec

CHOSEN = "chosen"
"""Stands for the value that the selection episodes choose, as long as it is not known."""


@dataclass(frozen=True)
class SweepJob:
    """One job. `needs`: names of jobs that must be done before."""

    kind: str
    task: str
    entry: str = ""
    value: str = ""
    seed: int | None = None
    network: str = ""
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What identifies it in the sweep, e.g. "train TASK/edp/bc_weight=30/seed0"."""
        seed = "" if self.seed is None else f"seed{self.seed}"
        parts = (self.task, self.entry, self.value, seed, self.network)
        return f"{self.kind} {'/'.join(part for part in parts if part)}"


def jobs_of(spec: SweepSpec) -> list[SweepJob]:
    """Every job of a sweep, each after those that it needs; the first seeds of all before others.

    An evaluation needs all seeds, since a weight is chosen on all of them together.
    """
    made: dict[str, SweepJob] = {}
    for step in (*spec.seeds, None):
        for entry in spec.entries:
            for name in spec.tasks:
                for job in _at_seed(spec, entry, name, step):
                    made.setdefault(job.name, job)
    return list(made.values())


def _at_seed(spec: SweepSpec, entry: SpecEntry, name: str, seed: int | None) -> Iterator[SweepJob]:
    """The jobs of one seed of an entry on a task; of None: those that need all seeds."""
    data = SweepJob("data", spec.problem(entry, name).dataset)

    def flows(seeds: tuple[int, ...]) -> list[str]:
        """The runs of the entry that gives the flow, if another does."""
        of = [SweepJob("train", name, entry.policy, "", each) for each in seeds]
        return [job.name for job in of] if entry.policy else []

    tried = spec.seeds_of(entry)
    tries = [
        SweepJob("try", name, entry.name, value, needs=(
            *(SweepJob("train", name, entry.name, value, each).name for each in tried),
            *flows(tried),
        ))
        for value in entry.values
    ]  # fmt: skip
    chosen = tuple(job.name for job in tries)
    at_last = max(spec.seeds_of(entry), key=spec.seeds.index)

    def runs(seed: int) -> list[SweepJob]:
        if not tries:
            return [SweepJob("train", name, entry.name, "", seed, needs=(data.name,))]
        if seed in spec.seeds_of(entry):
            return [SweepJob("train", name, entry.name, v, seed, needs=(data.name,))
                    for v in entry.values]  # fmt: skip
        return [SweepJob("train", name, entry.name, CHOSEN, seed, needs=(data.name, *chosen))]

    def beside(seed: int) -> list[SweepJob]:
        value = CHOSEN if tries else ""
        after = (*(run.name for run in runs(seed)), *chosen)
        return [SweepJob("beside", name, entry.name, value, seed, n, after) for n in entry.extra]

    if seed is not None:
        yield data
        yield from runs(seed)
        if seed == at_last:
            yield from tries
        if not tries or seed == at_last or seed not in spec.seeds_of(entry):
            yield from beside(seed)
        return
    for each in spec.seeds:  # those of tried seeds, whose value was not known then
        yield from beside(each)
    needs = [job.name for each in spec.seeds for job in (*runs(each), *beside(each))]
    yield SweepJob("evaluate", name, entry.name, needs=(*needs, *flows(spec.seeds), *chosen))
