"""What a sweep is made of, read from its TOML file.

tasks = ["cube-single-play-singletask-task1-v0"]
seeds = [0, 1, 2]

[train]                     # settings of every run, by the names of `qgf-ref train --help`
updates = 10_000

[evaluate]                  # of every evaluation: `qgf_ref.evaluation.settings.Settings`
weights = [0.03, 0.1, 0.3]

[agents.iql]                # one table for each agent; its name is the agent's, or a name that
methods = ["bc", "qgf"]     # tables shall show, with agent = "…"
extra = ["cfgrl"]

[agents.edp]
try.bc_weight = [30, 100]   # a run for each; kept is the best on the selection episodes
try_seeds = [0]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.registry import agent_named, agent_with
from qgf_ref.data.tasks import GoalTask, Task, goal_task, task
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.evaluation.methods import parse_methods
from qgf_ref.evaluation.settings import Settings
from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.training.config import PRESETS, TrainConfig, preset

_OF_THE_SWEEP = ("task", "seed", "data", "agent", "agent_settings", "threads")
"""Settings of a run that the sweep decides."""


@dataclass(frozen=True)
class SweepSpec:
    """A whole sweep. Raises InputError on what cannot be trained or evaluated.

    train      settings of every run
    evaluate   settings of every evaluation: of `qgf_ref.evaluation.settings.Settings`
    collect    {data set: episodes} of data sets that are made, not downloaded
    beside     {updates: …} and the like of the auxiliary networks' training
    baseline   the label that differences are taken to
    cluster    what a queueing system is asked for; decides no result
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    entries: tuple[SpecEntry, ...]
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    collect: dict[str, int] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    baseline: str = "qgf"
    cluster: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for what in ("tasks", "seeds", "entries"):
            given = getattr(self, what)
            if not given:
                raise InputError(f"a sweep needs {_TOLD[what]}")
            keys = [e.name for e in given] if what == "entries" else list(given)
            for key in keys:
                if keys.count(key) > 1:
                    raise InputError(f"{_TOLD[what]}: {key} is given twice")
        for name in self.tasks:
            same = [n for n in self.tasks if re.sub("-task[1-9]-", "-", n) == name != n]
            if same:
                raise InputError(
                    f"tasks: {name} is OGBench's default among its numbered tasks, which are there "
                    f"too ({', '.join(same)}): one would count twice"
                )
        labels = self._check_entries()
        datasets = {self.problem(e, n).dataset for e in self.entries for n in self.tasks}
        for name in self.collect:
            if name not in datasets:
                raise InputError(
                    f"collect: no task uses the data set {name}; they use "
                    f"{', '.join(sorted(datasets))}"
                )
        self._check_made()
        if self.baseline != "qgf" and self.baseline not in labels:
            raise unknown_name("baseline", self.baseline, labels)

    def _check_made(self) -> None:
        """The data sets that are made, and the settings of auxiliary networks."""
        from qgf_ref.data.collection.collect import make_plan

        for name, episodes in self.collect.items():
            try:
                make_plan(name, episodes=episodes)
            except InputError as error:
                raise InputError(f"collect.{name}: {error}") from error
        if self.beside:
            try:
                replace(self.config(self.entries[0], self.tasks[0], self.seeds[0]), **self.beside)
            except InputError as error:
                raise InputError(f"extra: {error}") from error

    def _check_entries(self) -> dict[str, str]:
        """The entries checked one by one, and {label: entry} of all their methods."""
        labels: dict[str, str] = {}
        for entry in self.entries:
            self._check(entry)
            for method in self.settings(entry).methods:
                other = labels.setdefault(entry.label(method), entry.name)
                if other != entry.name:
                    raise InputError(
                        f"agents.{other} and agents.{entry.name} would both be called "
                        f"{entry.label(method)} in tables: give one another name"
                    )
        return labels

    def entry(self, name: str) -> SpecEntry:
        """The entry of a name."""
        return next(entry for entry in self.entries if entry.name == name)

    def config(
        self, entry: SpecEntry, name: str, seed: int, value: str = "", data: str | None = None
    ) -> TrainConfig:
        """The configuration of one run: the task's `name`, and one of the values that are tried."""
        changes = {**self.train, **entry.train, **entry.setting(value)}
        kind = changes.pop("preset", "small")
        if kind not in PRESETS:
            raise unknown_name("preset", kind, PRESETS)
        stated = agent_named(entry.agent).stated
        own = {key: changes.pop(key) for key in list(changes) if key in stated}
        known = [f.name for f in fields(TrainConfig) if f.name not in _OF_THE_SWEEP]
        for key in changes:
            if key in _OF_THE_SWEEP:
                raise InputError(f"train.{key}: the sweep itself decides the {key} of a run")
            if key not in known:
                agent_with(entry.agent, {key: changes[key]} if _anybodys(key) else {})
                raise unknown_name("setting of train", key, (*known, *stated))
        config = preset(kind, entry.agent, name, own)
        return replace(config, **changes, task=name, seed=seed, data=data)

    def settings(self, entry: SpecEntry) -> Settings:
        """What of an entry's runs is played."""
        own = {"weights": entry.weights} if entry.weights else {}
        given = {"selection_episodes": 10, "episodes": 25, **self.evaluate, **own}
        return Settings(methods=parse_methods(entry.methods), **given)

    def problem(self, entry: SpecEntry, name: str) -> Task | GoalTask:
        """The task, or the goals, that a name stands for."""
        return goal_task(name) if agent_named(entry.agent).of_goals else task(name)

    def seeds_of(self, entry: SpecEntry) -> tuple[int, ...]:
        """The seeds on which an entry's values are tried."""
        return entry.try_seeds or self.seeds

    def _check(self, entry: SpecEntry) -> None:
        where = f"agents.{entry.name}"
        try:
            for seed in self.seeds_of(entry):
                if seed not in self.seeds:
                    raise InputError(f"try_seeds: {seed} is none of the sweep's seeds")
            if (entry.try_seeds or entry.try_by) and not entry.tried:
                raise InputError("try_seeds and try_by go with try, e.g. try.bc_weight = [30, 100]")
            if len(entry.tried) > 1:
                raise InputError(f"try takes one setting, got {', '.join(entry.tried)}")
            for value in (v for values in entry.tried.values() for v in values):
                if not isinstance(value, bool | int | float) and not _names_files(value):
                    raise InputError(
                        f"try: values are numbers, truth values or words, which name directories; "
                        f"got {value!r}"
                    )
            if len(set(entry.values)) < len(entry.values):
                raise InputError(f"try: a value is given twice: {', '.join(entry.values)}")
            methods = self.settings(entry).methods
            for method in methods:
                if method.auxiliary is not None and method.auxiliary not in entry.extra:
                    raise InputError(
                        f"methods: {method.label} needs the network {method.auxiliary}: add extra "
                        f'= ["{method.auxiliary}"]'
                    )
            if entry.tried and entry.deciding not in methods:
                raise InputError(f"try_by: {entry.try_by} is none of its methods")
            if entry.tried and entry.deciding.auxiliary is not None:
                raise InputError(
                    f"{entry.deciding.label} cannot choose among tried values, as its network is "
                    "trained after the choice: name another method in try_by"
                )
            agent_with(entry.agent, entry.acting)
            for name in entry.extra:
                if agent_named(name).base != entry.agent:
                    raise InputError(
                        f"extra: {name} is no network that is trained beside runs of {entry.agent}"
                    )
            if entry.policy:
                self._check_policy(entry)
            for name in self.tasks:
                self.problem(entry, name)
                for value in entry.values or ("",):
                    self.config(entry, name, self.seeds[0], value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def _check_policy(self, entry: SpecEntry) -> None:
        """Whether the entry that gives the flow can, as far as a spec knows."""
        names = [e.name for e in self.entries[: self.entries.index(entry)]]
        if entry.policy not in names:
            if not names or entry.policy in [e.name for e in self.entries]:
                raise InputError(f"policy: {entry.policy} must be an agent above {entry.name}")
            raise unknown_name("policy", entry.policy, names)
        flow = self.entry(entry.policy)
        if not isinstance(agent_named(flow.agent), FlowAgent):
            raise InputError(f"policy: the agent {flow.agent} of {flow.name} has no flow")
        if flow.tried or flow.policy:
            raise InputError(
                f"policy: {flow.name} has {'tried values' if flow.tried else 'a policy'} of its "
                "own: name an entry whose runs are one for each seed"
            )
        if entry.extra:
            raise InputError(
                f"extra: {', '.join(entry.extra)} would be trained beside one run, but with "
                "policy the networks are of two"
            )

    def identity(self) -> dict[str, Any]:
        """All that decides results, as JSON."""
        content = asdict(self)
        del content["cluster"]
        for entry in content["entries"]:
            if not entry["policy"]:  # as it was written before there were such
                del entry["policy"]
        return content


_TOLD = {
    "tasks": 'tasks, e.g. tasks = ["cube-single-play-singletask-task1-v0"]',
    "seeds": "training seeds, e.g. seeds = [0, 1, 2]",
    "entries": "a table for each agent, e.g. [agents.iql]",
}


def spec_from_json(content: Mapping[str, Any]) -> SweepSpec:
    """The spec that `Spec.identity` described; raises InputError on what it did not."""
    try:
        entries = tuple(SpecEntry(**_tuples(entry)) for entry in content["entries"])
        return SweepSpec(**{**_tuples({k: v for k, v in content.items() if k != "entries"}),
                       "entries": entries})  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"this is no sweep's spec ({error})") from error


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _names_files(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.+-]+", value) is not None


def _anybodys(key: str) -> bool:
    """Whether any agent has this setting: `agent_with` then says whose it is."""
    from qgf_ref.agents.registry import AGENTS, OF_GOALS

    return any(key in agent.stated for agent in (*AGENTS.values(), *OF_GOALS.values()))
