"""The protocol: weights are chosen on some episodes and reported on others.

    selection   seeds s, s+1, …            every weight of every weighted method, and the others
    held out    seeds s+100000, …          every method, at its chosen weight

The official script reports the maximum over weights on the very episodes that it is measured on;
that number is computed as well, from the selection episodes, and called optimistic.
Source: method.md, section 8; official.md, P1 and P2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.checkpoint import digest as digest_of
from qgf_ref.backends.engine import Engine, EngineLike
from qgf_ref.errors import InputError
from qgf_ref.evaluation.goals import problem_of
from qgf_ref.evaluation.methods import Method, parse_method, require_networks
from qgf_ref.evaluation.records import Records, Unit, code_versions, digest
from qgf_ref.evaluation.rollouts import Episode, Played, Policy, Simulator, TaskLike
from qgf_ref.evaluation.settings import HELD_OUT, SELECTION, Settings
from qgf_ref.evaluation.statistics import Estimate, wilson
from qgf_ref.evaluation.workers import RolloutSetup, workers
from qgf_ref.processes import Crew
from qgf_ref.progress import Progress, progress
from qgf_ref.provenance import provenance
from qgf_ref.threads import one_blas_thread

_SHOWN = 12
"""Hexadecimal digits of an auxiliary network's digest, in the keys of the records."""


@dataclass(frozen=True)
class Cell:
    """All episodes of one method at one weight on one split, checkpoint by checkpoint.

    A number of `episodes`, flat, is that of checkpoint number i // (seeds of the split).
    """

    method: Method
    weight: float | None
    split: str
    by_checkpoint: tuple[tuple[Episode, ...], ...]
    sampling_seconds: float
    stepping_seconds: float

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """Every checkpoint's episodes, one after the other."""
        return tuple(e for episodes in self.by_checkpoint for e in episodes)

    @property
    def success(self) -> Estimate:
        """Success rate over all checkpoints' episodes, with Wilson's interval."""
        return wilson(sum(e.success for e in self.episodes), len(self.episodes))

    @property
    def rates(self) -> tuple[float, ...]:
        """Each checkpoint's own success rate."""
        return tuple(sum(e.success for e in each) / len(each) for each in self.by_checkpoint)

    @property
    def mean_reward(self) -> float:
        """Mean undiscounted return."""
        return sum(e.total_reward for e in self.episodes) / len(self.episodes)


@dataclass(frozen=True)
class Evaluation:
    """Everything that was played. `selection` is empty when no weight was to be chosen."""

    task: str
    settings: Settings
    checkpoints: tuple[dict[str, Any], ...]
    selection: tuple[Cell, ...]
    held_out: tuple[Cell, ...]
    seconds: float
    provenance: dict[str, Any]

    def curve(self, method: Method) -> tuple[Cell, ...]:
        """The selection cells of a method, by weight."""
        cells = [c for c in self.selection if c.method == method]
        return tuple(sorted(cells, key=lambda c: c.weight or 0.0))

    def optimistic(self, method: Method) -> float | None:
        """The official script's number: the highest success over weights, on these same episodes.

        None for a method without weights, and when nothing was chosen.
        """
        cells = self.curve(method)
        return max(c.success.value for c in cells) if cells and method.weighted else None


def best(cells: Iterable[Cell]) -> Cell:
    """The cell of the highest success; among equals of the higher return, then smaller weight."""
    return max(cells, key=lambda c: (c.success.value, c.mean_reward, -(c.weight or 0.0)))


def evaluate(
    checkpoints: Sequence[Checkpoint],
    task: TaskLike | str,
    settings: Settings | None = None,
    *,
    directory: Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Run the protocol.

    checkpoints  training seeds of the same task; each plays the same episodes, and the weight is
                 chosen on all of them together
    directory    where finished groups are recorded and, on another run, taken up again
    Raises InputError on checkpoints that do not fit the task and on records of another
    configuration, WorkerError when a process dies, NonFiniteError as `sample`.
    """
    settings = settings or Settings()
    start, origin = perf_counter(), provenance()
    selected: list[Cell] = []
    total = _total(settings, len(checkpoints))
    with _playing(checkpoints, task, settings, directory, total, overwrite=overwrite) as run:
        fixed = {m: settings.weights_of(m)[0] for m in settings.methods if m.weighted}
        if settings.selects:
            selected = run.cells(_selected(settings), SELECTION)
            for m in fixed:
                chosen = best(c for c in selected if c.method == m).weight
                assert chosen is not None
                fixed[m] = chosen
        held_out = run.cells([(m, fixed.get(m)) for m in settings.methods], HELD_OUT)
    return Evaluation(
        run.task.name,
        settings,
        tuple(c.describe() for c in checkpoints),
        tuple(selected),
        tuple(held_out),
        perf_counter() - start,
        origin,
    )


def selection(
    checkpoints: Sequence[Checkpoint],
    task: TaskLike | str,
    settings: Settings,
    *,
    directory: Path | None = None,
) -> tuple[Cell, ...]:
    """The cells of every method and weight on the selection episodes, and nothing held out: what a
    choice between runs of other settings is made on. Arguments and errors as `evaluate`.
    """
    pairs = _selected(settings)
    total = len(pairs) * settings.selection_episodes * len(checkpoints)
    with _playing(checkpoints, task, settings, directory, total) as run:
        return tuple(run.cells(pairs, SELECTION))


@contextmanager
def _playing(
    checkpoints: Sequence[Checkpoint],
    task: TaskLike | str,
    settings: Settings,
    directory: Path | None,
    total: int,
    *,
    overwrite: bool = False,
) -> Iterator[_Run]:
    """An evaluation under way, its input checked, its workers started."""
    if not checkpoints:
        raise InputError("no checkpoint to evaluate")
    task = problem_of(task, checkpoints[0]) if isinstance(task, str) else task
    digests = [digest(c) for c in checkpoints]
    if len(set(digests)) < len(digests):
        raise InputError(
            "the same checkpoint is given twice; several are meant to be training seeds, whose "
            "episodes are pooled"
        )
    with Simulator(task, 1) as simulator:
        for checkpoint in checkpoints:
            simulator.require_fit(checkpoint)
            require_networks(checkpoint, settings.methods)
    configuration = {
        "task": task.name,
        "checkpoints": digests,
        "environments": settings.envs,
        "backend": settings.backend,
        "code": code_versions(settings.methods, settings.engine.backend),
    }
    stage = RolloutSetup(tuple(checkpoints), task, settings.envs, settings.engine)
    with (
        Records(directory, configuration, overwrite=overwrite) as records,
        workers(stage, settings.workers) as crew,
        progress(total, "episode") as job,
    ):
        yield _Run(task, settings, checkpoints, records, crew, job)


def _selected(settings: Settings) -> list[tuple[Method, float | None]]:
    """What is played on the selection episodes: the unguided methods, then every weight."""
    guided = [m for m in settings.methods if m.weighted]
    others = [m for m in settings.methods if not m.weighted]
    return [*((m, None) for m in others), *((m, w) for m in guided for w in settings.weights_of(m))]


@one_blas_thread()
def success_rate(
    checkpoint: Checkpoint,
    task: TaskLike | str,
    method: Method | str = "qgf",
    weight: float | None = None,
    seeds: Sequence[int] = range(20),
    *,
    simulator: Simulator | None = None,
    envs: int = 8,
    backend: EngineLike = "numpy",
    threads: int | None = None,
) -> Cell:
    """One method at one weight, in this process: cheap enough for a training loop.

    simulator  environments to use again from call to call (`Simulator(task, 8)`); without it they
               are made and closed here, which costs about a second each for the cube tasks
    backend, threads  of the sampler, as `qgf_ref.sampling.sample` has them
    Returns a Cell: `.success` is rate, low, high; `.mean_reward`; `.episodes`.
    Raises InputError as `evaluate`, and when a guided method comes without a weight.
    """
    task = problem_of(task, checkpoint) if isinstance(task, str) else task
    method = parse_method(method) if isinstance(method, str) else method
    if not len(seeds):
        raise InputError("a success rate needs at least one episode: give seeds")
    own = simulator or Simulator(task, envs)
    try:
        own.require_fit(checkpoint)
        policy = Policy.of(checkpoint, method, weight, Engine.of(backend, threads))
        groups = [own.play(policy, group) for group in _groups(tuple(seeds), own.count)]
    finally:
        if simulator is None:
            own.close()
    return _cell(method, weight, HELD_OUT, [groups])


class _Run:
    """One evaluation under way: where groups come from, and where they go."""

    def __init__(
        self,
        task: TaskLike,
        settings: Settings,
        checkpoints: Sequence[Checkpoint],
        records: Records,
        crew: Crew[Unit, Played],
        job: Progress,
    ) -> None:
        self.task, self.settings, self.records = task, settings, records
        self.crew, self.job = crew, job
        self.networks = [
            {name: digest_of((params,))[:_SHOWN] for name, params in c.auxiliary.present().items()}
            for c in checkpoints
        ]

    def cells(self, pairs: Sequence[tuple[Method, float | None]], split: str) -> list[Cell]:
        """The cells of these methods and weights, playing what the records do not have."""
        groups = _groups(tuple(self.settings.seeds(split)), self.settings.envs)
        cells = [
            [
                [Unit(c, m, w, split, g, networks.get(m.auxiliary or "", "")) for g in groups]
                for c, networks in enumerate(self.networks)
            ]
            for m, w in pairs
        ]
        units = [u for cell in cells for checkpoint in cell for u in checkpoint]
        missing = [u for u in units if self.records.get(u) is None]
        done = sum(len(u.seeds) for u in units) - sum(len(u.seeds) for u in missing)
        self.job.advance(done)
        running: dict[tuple[Method, float | None], list[bool]] = {}
        for unit, played in self.crew.run(missing):
            self.records.add(unit, played)
            wins = running.setdefault((unit.method, unit.weight), [])
            wins += [e.success for e in played.episodes]
            weight = "" if unit.weight is None else f" w={unit.weight:g}"
            rate = f"{sum(wins)}/{len(wins)}"
            self.job.say(f"{split} {unit.method.label}{weight}: {rate}")
            self.job.advance(len(played.episodes))
        return [
            _cell(m, w, split, [[self._played(u) for u in checkpoint] for checkpoint in cell])
            for (m, w), cell in zip(pairs, cells, strict=True)
        ]

    def _played(self, unit: Unit) -> Played:
        played = self.records.get(unit)
        assert played is not None
        return played


def _cell(
    method: Method, weight: float | None, split: str, played: Sequence[Sequence[Played]]
) -> Cell:
    groups = [g for checkpoint in played for g in checkpoint]
    return Cell(
        method,
        weight,
        split,
        tuple(tuple(e for g in checkpoint for e in g.episodes) for checkpoint in played),
        sum(g.sampling_seconds for g in groups),
        sum(g.stepping_seconds for g in groups),
    )


def _groups(seeds: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [seeds[i : i + size] for i in range(0, len(seeds), size)]


def _total(settings: Settings, checkpoints: int) -> int:
    rows = sum(max(len(settings.weights_of(m)), 1) for m in settings.methods)
    selection = rows * settings.selection_episodes if settings.selects else 0
    return checkpoints * (selection + len(settings.methods) * settings.episodes)
