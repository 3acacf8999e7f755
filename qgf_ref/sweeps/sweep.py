"""A spec in its directory: what is done there, what was chosen, what is to be done.

A job is done when its files say so, whoever made them and in whatever order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qgf_ref.data.datasets import find_dataset, has_dataset
from qgf_ref.errors import InputError
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.jobs import CHOSEN, SweepJob, jobs_of
from qgf_ref.sweeps.place import SweepPlace, read_json
from qgf_ref.sweeps.spec import SweepSpec
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import RECORD, Record, fingerprint

BESIDE_UPDATES = 10_000
SAME = ("data", "updates", "backend", "threads")
"""Settings of a run that may differ from the spec's: they decide no more than the last bits, or
are compared by themselves.
"""


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

    def fingerprint(self, dataset: str) -> list[dict[str, Any]] | None:
        """Of the data set's files, as runs record it; None where the data set is not here."""
        key = ("data", dataset)
        if key not in self._known:
            where = self.data_of(dataset)
            if not has_dataset(dataset, where):
                return None
            found = find_dataset(dataset, where)
            held_out = () if found.validation is None else (found.validation,)
            self._known[key] = {"files": fingerprint((*found.train, *held_out))}
        files: list[dict[str, Any]] = self._known[key]["files"]
        return files

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
        """Of the values that are tried, the one with which `SpecEntry.deciding`, at its best
        weight, succeeds most on the selection episodes; among equals that of the higher return,
        then the first. "" where nothing is tried; None while some value was not.
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
        run = self._decisive(entry, name, value or next(iter(entry.values), ""))
        settings = self.spec.settings(entry).describe()
        for each in ("workers", "threads"):
            settings.pop(each, None)
        dataset = self.spec.problem(entry, name).dataset
        content = {
            "task": name, "entry": entry.name, "value": value, "seeds": list(seeds), "run": run,
            "collect": self.spec.collect.get(dataset),
            "tried": {k: list(v) for k, v in entry.tried.items()}, "acting": entry.acting,
            "beside": dict.fromkeys(entry.extra, self.spec.beside),
            "settings": settings,
        }  # fmt: skip
        if entry.policy:
            flow = self.spec.entry(entry.policy)
            content["policy"] = {"entry": flow.name, "run": self._decisive(flow, name, "")}
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def _decisive(self, entry: SpecEntry, name: str, value: str) -> dict[str, Any]:
        """What of a run's configuration decides its result, whatever the seed."""
        apart = ("seed", "data", "threads", "evaluate_every", "evaluate_episodes")
        return {k: v for k, v in self._stated(entry, name, value).items() if k not in apart}

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
        here = self.fingerprint(self.spec.problem(entry, name).dataset)
        if here is not None and content.get("data", here) != here:
            raise InputError(
                f"{path} was made with another data set ({differing(content['data'], here)}): give "
                "the --data of the sweep, or another --out"
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
            data = self.fingerprint(self.spec.problem(entry, job.task).dataset)
            return finished(run, stated, data) or train_command(self.config(job), run) is None
        return self._made_beside(job, run)

    def _made_beside(self, job: SweepJob, run: Path) -> bool:
        """Whether an auxiliary network is there. Raises InputError on one of other settings."""
        made = read_json(run / f"{job.network}.json")
        if made is None:
            return False
        for key, value in self.spec.beside.items():
            theirs, ours = made.get("config", {}).get(key), json.loads(json.dumps(value))
            if key != "updates" and theirs != ours:
                raise InputError(
                    f"{run / job.network}.json is of a network with other settings ({key} "
                    f"{theirs} there, {ours} here): move it away"
                )
        return bool(made.get("update", 0) >= self.spec.beside.get("updates", BESIDE_UPDATES))

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
                needed = [by_name[name] for name in job.needs]
                if job.kind == "evaluate":  # of runs that lost the choice only the result is needed
                    chosen = self.chosen(job.task, self.spec.entry(job.entry))
                    kept = ("", CHOSEN, chosen)
                    needed = [j for j in needed if chosen is None or j.value in kept]
                stack += [j for j in needed if j.name not in wanted and not self.done(j)]
        return every, [job for job in every if job.name in wanted]


def finished(run: Path, stated: dict[str, Any], data: list[dict[str, Any]] | None) -> bool:
    """Whether `run` holds the whole run of a configuration as JSON; False also where an older
    record says the same in other words, which `train_command` reads.

    data  the data set's fingerprint, if it is here
    Raises InputError on a run of another data set.
    """
    content = read_json(run / RECORD)
    if content is None or not isinstance(content.get("config"), dict):
        return False
    if data is not None and content.get("dataset") != data:
        raise InputError(
            f"{run} was trained on another data set ({differing(content.get('dataset'), data)}): "
            "give the --data of the sweep, or another --out"
        )
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
