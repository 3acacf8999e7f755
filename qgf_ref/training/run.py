"""Starting and resuming a run: its directory, its data, its loop.

What a run's directory holds:

    model.safetensors, config.json  the checkpoint, which `qgf_ref.load` reads from the directory
    state.safetensors               everything a resumed run needs, in one piece, written first
    metrics.csv, losses.png         losses, on training and on validation data
    train.json                      configuration, data set, versions, commit, timing
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qgf_ref.agents.registry import agent_named
from qgf_ref.data.datasets import DatasetFiles, find_dataset, load_transitions
from qgf_ref.data.slices import SliceStream
from qgf_ref.data.tasks import GoalTask, Task, goal_task, task
from qgf_ref.errors import InputError
from qgf_ref.files import (
    csv_bytes,
    make_directory,
    no_empty_directories,
    require_writable,
    sole_use,
    user_path,
    write_atomically,
)
from qgf_ref.interop.native import CONFIG, MODEL, save_checkpoint
from qgf_ref.processes import peak_bytes
from qgf_ref.tracking import Start, Tracking
from qgf_ref.training import loop
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.curves import loss_curves
from qgf_ref.training.goals import GoalData, fitted, load_goal_data
from qgf_ref.training.loop import TrainingData
from qgf_ref.training.periodic import evaluator
from qgf_ref.training.record import RECORD, Record, fingerprint
from qgf_ref.training.state import RunState, initial_state, load_state, save_state

Problem = Task | GoalTask
LOCK = ".lock"
STATE, METRICS, CURVES = "state.safetensors", "metrics.csv", "losses.png"
FILES = (MODEL, CONFIG, STATE, METRICS, CURVES, RECORD)


@dataclass(frozen=True)
class Finished:
    """How a call of `start` or `resume` ended.

    signal              the one that interrupted it, or None
    peak_data_bytes     the most memory that transitions took: the whole data set, or two slices
    peak_process_bytes  the most that the process took, reading a file included; None where the
                        system does not tell (Windows)
    """

    directory: Path
    config: TrainConfig
    state: RunState
    signal: int | None
    peak_data_bytes: int
    peak_process_bytes: int | None


@dataclass(frozen=True)
class OwnRunFiles:
    """The files of a run's own directory: see `qgf_ref.training.loop.RunFiles`."""

    config: TrainConfig
    columns: tuple[str, ...]
    directory: Path
    record: Record
    last_row: bool = False

    def __str__(self) -> str:
        return str(self.directory)

    def log(self, state: RunState) -> None:
        """Write metrics.csv."""
        write_atomically(self.directory / METRICS, csv_bytes(state.metrics))

    def save(self, state: RunState, first: int, seconds: float) -> None:
        """Write everything, the state first: it can make all the others."""
        self.record.progress(first, state.update, seconds)
        save_state(state, self.directory / STATE, self.config.agent)
        save_checkpoint(state.checkpoint(self.config), self.directory)
        self.log(state)
        self.record.write()
        if state.metrics:
            loss_curves(state.metrics, self.columns, self.config.task, self.directory / CURVES)


@dataclass(frozen=True)
class Feed:
    """`at(update)`: the data that serve an update; `peak_bytes()`: memory taken so far."""

    at: Callable[[int], TrainingData]
    peak_bytes: Callable[[], int]


@no_empty_directories(LOCK)
def start(config: TrainConfig, directory: Path, tracking: Tracking | None = None) -> Finished:
    """Train from the first update; `tracking` is sent the metrics.

    Raises InputError when `directory` already holds a run, or a file that a run would replace, and
    for an agent that is trained against another one's run.
    """
    if base := config.trained_agent().base:
        raise InputError(
            f"{config.agent} is trained against a finished run of the agent {base}: say which, "
            "with --base DIR"
        )
    problem, directory = _problem(config), user_path(directory)
    config = config.with_threads()
    if config.data is not None:  # so that the run can be resumed from anywhere
        config = replace(config, data=str(user_path(config.data).resolve()))
    try:
        make_directory(directory)
    except OSError as error:
        raise InputError(f"cannot make {directory}: {error.strerror or error}") from error
    if (directory / RECORD).exists():
        raise InputError(
            f"{directory} already holds a run. Continue it with qgf-ref train --resume "
            f"{directory}, or choose another --out"
        )
    taken = [name for name in FILES if (directory / name).exists()]
    if taken:
        raise InputError(
            f"{directory} holds {', '.join(taken)}, which a run would replace: choose another --out"
        )
    for name in FILES:
        require_writable(directory / name)
    found = find_dataset(problem.dataset, config.data)
    with _alone(directory), _transitions(found, problem, config) as feed:
        first = feed.at(1)
        if isinstance(first, GoalData):
            config = fitted(config, first)
        state = initial_state(config, *_widths(first))
        about = {
            "dataset": _fingerprints(found),
            "transitions": len(first),
            "networks": state.checkpoint(config).describe(),
        }
        record = Record.create(directory, config, about)
        return _run(config, state, feed, found, problem, record, tracking)


def resume(
    directory: Path,
    updates: int | None = None,
    data: str | Path | None = None,
    agent: str | None = None,
    tracking: Tracking | None = None,
) -> Finished:
    """Continue the run in `directory` as if it had never stopped.

    updates  length of the whole run, if it shall be another than planned
    data     where the data set is now, if it has moved
    agent    the run's agent as "package.module:AGENT", if it is a user's own
    tracking  is sent the metrics
    Raises InputError when there is no run, when its state is damaged, when the data set is not the
    one that it was started on, or while another process works on it.
    """
    own, directory = None if agent is None else agent_named(agent), user_path(directory)
    record = Record.read(directory)
    config = record.config
    if own is not None and own.name != config.agent:
        raise InputError(f"the run in {directory} is of the agent {config.agent}, not {own.name}")
    if updates is not None:
        config = replace(config, updates=updates)
    if data is not None:
        config = replace(config, data=str(user_path(data).resolve()))
    record.config = config
    problem = _problem(config)
    found = find_dataset(problem.dataset, config.data)
    _require_same_data(found, record)
    with _alone(directory), _transitions(found, problem, config) as feed:
        _remove_temporary_files(directory)
        if (directory / STATE).exists():
            state = load_state(directory / STATE, config)
        else:  # stopped before anything was saved
            state = initial_state(config, *_widths(feed.at(1)))
        if state.update > config.updates:
            raise InputError(
                f"the run in {directory} has made {state.update} updates already; --updates must "
                f"be at least that, got {config.updates}"
            )
        return _run(config, state, feed, found, problem, record, tracking)


@contextmanager
def open_data(config: TrainConfig, record: Record) -> Iterator[tuple[Feed, TrainingData | None]]:
    """The training transitions of a configuration, and the validation ones if there are any.

    Raises InputError when the data set is not the one that the recorded run was started on.
    """
    problem = _problem(config)
    found = find_dataset(problem.dataset, config.data)
    _require_same_data(found, record)
    validation = None
    if found.validation is not None:
        validation = load_data(found.validation, problem, config)
    with _transitions(found, problem, config) as feed:
        yield feed, validation


def _run(
    config: TrainConfig,
    state: RunState,
    feed: Feed,
    found: DatasetFiles,
    problem: Problem,
    record: Record,
    tracking: Tracking | None,
) -> Finished:
    directory, validation = record.path.parent, None
    if found.validation is not None:
        validation = load_data(found.validation, problem, config)
    record.begin_session()
    for difference in record.changes():
        print(f"not the machine or version of the first session: {difference}", file=sys.stderr)
    sent = tracking or Tracking()
    with (
        sent.run(directory, config.to_json(), Start(record.identity, state.update)),
        evaluator(config, problem) as evaluate,
    ):
        record.write()
        recipe = config.trained_agent().require_recipe()
        place = OwnRunFiles(config, recipe.losses, directory, record)
        ended = loop.run(config, recipe, state, feed.at, validation, place, evaluate, sent)
    peak = peak_bytes()
    record.note(peak_data_bytes=feed.peak_bytes(), peak_process_bytes=peak)
    record.write()
    return Finished(directory, config, state, ended, feed.peak_bytes(), peak)


def _alone(directory: Path) -> AbstractContextManager[None]:
    return sole_use(directory / LOCK, f"another process is training in {directory}")


def _problem(config: TrainConfig) -> Problem:
    if config.trained_agent().of_goals:
        return goal_task(config.task)
    return task(config.task, f"the agent {config.agent} (others reach goals: --agent dqc)")


def _widths(data: TrainingData) -> tuple[int, int]:
    """Of an observation, [s, g] where there are goals, and of an action."""
    goal = data.goal_dim if isinstance(data, GoalData) else 0
    return data.observations.shape[1] + goal, data.actions.shape[1]


def load_data(path: Path, problem: Problem, config: TrainConfig) -> TrainingData:
    """One file of the problem's data set, as a run of the configuration reads it. Raises InputError
    as `load_transitions`.
    """
    if isinstance(problem, GoalTask):
        return load_goal_data(path, problem, config)
    return load_transitions(
        path,
        problem,
        horizon=config.horizon_length,
        masks=config.masks,
        action_clip_eps=config.action_clip_eps,
    )


@contextmanager
def _transitions(found: DatasetFiles, problem: Problem, config: TrainConfig) -> Iterator[Feed]:
    load = partial(load_data, problem=problem, config=config)
    if len(found.train) == 1:
        whole = load(found.train[0])
        if isinstance(whole, GoalData):
            total = whole.nbytes
        else:
            total = sum(array.nbytes for array in vars(whole).values())
        yield Feed(lambda update: whole, lambda: total)
    else:
        with closing(SliceStream(found.train, load, config.slice_steps)) as stream:
            yield Feed(stream.at, lambda: stream.peak_bytes)


def _require_same_data(found: DatasetFiles, record: Record) -> None:
    if _fingerprints(found) != record.dataset:
        names = ", ".join(str(p) for p in found.train)
        raise InputError(
            f"{names} is not the data set that the run in {record.path.parent} was started on (see "
            f"dataset in {RECORD}): restore that one, or start a new run"
        )


def _fingerprints(found: DatasetFiles) -> list[dict[str, object]]:
    held_out = () if found.validation is None else (found.validation,)
    return fingerprint((*found.train, *held_out))


def _remove_temporary_files(directory: Path) -> None:
    # a killed process leaves the temporary name of the file that it was writing
    for name in FILES:
        for left in directory.glob(f".{name}.*"):
            left.unlink()
