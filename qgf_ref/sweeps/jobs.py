"""The jobs of a sweep: what each needs, whether its work is there already, and what to do.

    data      a data set is found, downloaded, or made
    train     one run; of the value that was chosen, where some were tried
    beside    an auxiliary network beside a run
    try       a tried value's runs are played on the selection episodes
    evaluate  an entry's runs of a task are played: weights on the selection episodes, then held out

A job is done when its files say so, whoever made them and in whatever order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qgf_ref.data.datasets import has_dataset
from qgf_ref.errors import InputError
from qgf_ref.sweeps.place import SweepPlace, read_json
from qgf_ref.sweeps.spec import SpecEntry, SweepSpec
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import RECORD, Record

CHOSEN = "chosen"
"""Stands for the value that the selection episodes choose, as long as it is not known."""
BESIDE_UPDATES = 10_000
SAME = ("data", "updates", "backend", "threads")
"""Settings of a run that may differ from the spec's: they decide no more than the last bits, or
are compared by themselves.
"""


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
    tries = [
        SweepJob("try", name, entry.name, value, needs=tuple(
            SweepJob("train", name, entry.name, value, each).name for each in spec.seeds_of(entry)
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
    yield SweepJob("evaluate", name, entry.name, needs=(*needs, *chosen))


@dataclass(frozen=True)
class Sweep:
    """A spec and the directory that it is worked off in. data: as `--data` of `qgf-ref train`."""

    spec: SweepSpec
    place: SweepPlace
    data: str | None = None
    _known: dict[tuple[str, ...], dict[str, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        # it goes to a worker with every job, and is asked about one there
        return {**vars(self), "_known": {}}

    def data_of(self, dataset: str) -> str | None:
        """Where a data set is, or is made: beside the sweep, if the spec says of how many episodes
        and `data` does not hold it.
        """
        if dataset in self.spec.collect and not (self.data and has_dataset(dataset, self.data)):
            return str(self.place.root / "data")
        return self.data

    def config(self, job: SweepJob) -> TrainConfig:
        """The configuration of a training."""
        assert job.seed is not None
        return self._config(self.spec.entry(job.entry), job.task, self.value(job), job.seed)

    def _config(self, entry: SpecEntry, name: str, value: str, seed: int) -> TrainConfig:
        data = self.data_of(self.spec.problem(entry, name).dataset)
        return self.spec.config(entry, name, seed, value, data)

    def _stated(self, entry: SpecEntry, name: str, value: str) -> dict[str, Any]:
        """The configuration of an entry's runs as JSON, made once: a sweep has thousands."""
        key = ("run", entry.name, name, value)
        if key not in self._known:
            config = self._config(entry, name, value, self.spec.seeds[0])
            self._known[key] = json.loads(json.dumps(config.to_json()))
        return self._known[key]

    def value(self, job: SweepJob) -> str:
        """The value of a job; of one that waits for a choice, the one that was chosen.

        Raises InputError as long as none was.
        """
        if job.value != CHOSEN:
            return job.value
        chosen = self.chosen(job.task, self.spec.entry(job.entry))
        if chosen is None:
            raise InputError(f"{job.name}: no value is chosen yet")
        return chosen

    def chosen(self, name: str, entry: SpecEntry) -> str | None:
        """Of the values that are tried, the one of the most success on the selection episodes;
        among equals of the higher return, then the first. "" where nothing is tried; None while
        some value was not.
        """
        if not entry.values:
            return ""
        found: list[tuple[float, float, int]] = []
        for i, value in enumerate(entry.values):
            content = self.result(name, entry, value)
            if content is None:
                return None
            best = max(content["cells"], key=_merit)
            found.append((*_merit(best), -i))
        return entry.values[-max(found)[2]]

    def run(self, job: SweepJob) -> Path:
        """The directory of a job's run."""
        assert job.seed is not None
        return self.place.run(job.task, job.entry, self.value(job), job.seed)

    def runs(self, name: str, entry: SpecEntry, value: str, seeds: tuple[int, ...]) -> list[Path]:
        """The directories of an entry's runs."""
        return [self.place.run(name, entry.name, value, seed) for seed in seeds]

    def identity(self, name: str, entry: SpecEntry, value: str = "") -> dict[str, Any]:
        """What decides a result, as JSON: of a value that is tried, if given."""
        key = ("result", entry.name, name, value)
        if key not in self._known:
            self._known[key] = self._identity(name, entry, value)
        return self._known[key]

    def _identity(self, name: str, entry: SpecEntry, value: str) -> dict[str, Any]:
        seeds = self.spec.seeds_of(entry) if value else self.spec.seeds
        run = dict(self._stated(entry, name, value or next(iter(entry.values), "")))
        for each in ("seed", "data", "threads", "evaluate_every", "evaluate_episodes"):
            run.pop(each, None)
        settings = self.spec.settings(entry).describe()
        for each in ("workers", "threads"):
            settings.pop(each, None)
        content = {
            "task": name, "entry": entry.name, "value": value, "seeds": list(seeds), "run": run,
            "tried": {k: list(v) for k, v in entry.tried.items()}, "acting": entry.acting,
            "beside": dict.fromkeys(entry.extra, self.spec.beside),
            "settings": settings,
        }  # fmt: skip
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def result(self, name: str, entry: SpecEntry, value: str = "") -> dict[str, Any] | None:
        """The result of an evaluation, or of a value that was tried; None if there is none.

        Raises InputError on one of other settings.
        """
        path = self.place.result(name, entry.name, value)
        content = read_json(path)
        if content is None:
            return None
        found, own = content.get("identity"), self.identity(name, entry, value)
        if found != own:
            raise InputError(
                f"{path} is the result of another sweep ({differing(found, own)}): move it "
                "away, or give another --out"
            )
        return content

    def done(self, job: SweepJob) -> bool:
        """Whether a job's work is there."""
        entry = self.spec.entry(job.entry) if job.entry else None
        if entry is None:
            return has_dataset(job.task, self.data_of(job.task))
        if job.kind in ("try", "evaluate"):
            return self.result(job.task, entry, job.value) is not None
        if job.value == CHOSEN and self.chosen(job.task, entry) is None:
            return False
        run = self.run(job)
        if job.kind == "train":
            if not (run / RECORD).exists():
                return False
            stated = {**self._stated(entry, job.task, self.value(job)), "seed": job.seed}
            return finished(run, stated) or train_command(self.config(job), run) is None
        made = read_json(run / f"{job.network}.json")
        updates = self.spec.beside.get("updates", BESIDE_UPDATES)
        return made is not None and made.get("update", 0) >= updates

    def wanted(self) -> tuple[list[SweepJob], list[SweepJob]]:
        """All jobs, and of them those to be done: a run whose results are there is not wanted."""
        every = jobs_of(self.spec)
        by_name = {job.name: job for job in every}
        wanted: set[str] = set()
        stack = [j for j in every if j.kind == "evaluate" and not self.done(j)]
        while stack:
            job = stack.pop()
            if job.name not in wanted:
                wanted.add(job.name)
                needed = (by_name[name] for name in job.needs)
                stack += [j for j in needed if j.name not in wanted and not self.done(j)]
        return every, [job for job in every if job.name in wanted]


def finished(run: Path, stated: dict[str, Any]) -> bool:
    """Whether `run` holds the whole run of a configuration as JSON; False also where an older
    record says the same in other words, which `train_command` reads.
    """
    content = read_json(run / RECORD)
    if content is None or not isinstance(content.get("config"), dict):
        return False
    theirs = {**content["config"], **{name: stated[name] for name in SAME}}
    reached = [s.get("to_update", 0) for s in content.get("sessions", ())]
    updates = content["config"].get("updates")
    return theirs == stated and updates == stated["updates"] == max(reached, default=0)


def train_command(config: TrainConfig, run: Path) -> str | None:
    """What makes or finishes the run of a configuration in `run`: "start", "resume", or None when
    it is finished.

    Raises InputError when what is there is another run.
    """
    if not (run / RECORD).exists():
        return "start"
    record = Record.read(run)
    found = record.config
    same = {name: getattr(config, name) for name in SAME}
    if replace(found, **same) != config:
        ours, theirs = config.to_json(), replace(found, **same).to_json()
        raise InputError(
            f"{run} is a run with other settings ({differing(theirs, ours)}): move it away"
        )
    if found.updates == config.updates and record.last_update == config.updates:
        return None
    return "resume"


def differing(found: Any, own: Any, path: str = "") -> str:
    """The first difference of two JSON values, in words."""
    if isinstance(found, dict) and isinstance(own, dict):
        for key in (*own, *(k for k in found if k not in own)):
            if found.get(key) != own.get(key):
                return differing(found.get(key), own.get(key), f"{path}.{key}" if path else key)
    shown = [json.dumps(v) if len(json.dumps(v)) <= 60 else "other values" for v in (found, own)]
    return f"{path or 'content'} {shown[0]} there, {shown[1]} here"


def _merit(cell: dict[str, Any]) -> tuple[float, float]:
    rewards = [r for each in cell["by_seed"] for r in each["returns"]]
    wins = [w for each in cell["by_seed"] for w in each["wins"]]
    return sum(wins) / len(wins), sum(rewards) / len(rewards)
