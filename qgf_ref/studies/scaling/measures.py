"""What is measured on one run: its losses on held-out data, its speed, its memory.

Both agents have the same networks and train their critics by the same loss. Their flows are judged
by the same cloning loss, too, whatever they were trained by: that of `iql`, on one fixed batch of
held-out windows with fixed noise and times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.registry import agent_named
from qgf_ref.agents.step import TrainState, update
from qgf_ref.data.datasets import DatasetFiles, find_dataset
from qgf_ref.data.tasks import task
from qgf_ref.errors import InputError
from qgf_ref.progress import tracked
from qgf_ref.studies.scaling.sizes import GUIDED
from qgf_ref.threads import limited
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.loop import TrainingData, ValidationSet, training_batch
from qgf_ref.training.record import Record
from qgf_ref.training.run import STATE, load_data
from qgf_ref.training.state import RunState, load_state

_REPETITIONS = 5
"""Updates of a run in one round, of which the fastest counts."""


@dataclass(frozen=True)
class HeldOutData:
    """The held-out data of a task, as runs of a configuration read them, and a batch of them."""

    data: TrainingData
    batch: ValidationSet
    recipe: Recipe

    @classmethod
    def of(cls, config: TrainConfig) -> HeldOutData:
        """Raises InputError where the task's data set has no held-out part."""
        problem = task(config.task)
        path = held_out(problem.dataset, find_dataset(problem.dataset, config.data))
        recipe = agent_named(GUIDED).require_recipe()
        data = load_data(path, problem, config)
        batch = ValidationSet.draw(data, recipe, config.hyperparameters())
        return cls(data, batch, recipe)

    def losses(self, train: TrainState, config: TrainConfig) -> dict[str, float]:
        """The batch's cloning loss, critic's loss, and mean Q of the data's actions."""
        found = self.batch.metrics(self.recipe, train, config.hyperparameters(), _LOSSES)
        return {ours: found[f"validation_{name}"] for ours, name in _COLUMNS.items()}


def held_out(name: str, files: DatasetFiles) -> Path:
    """The held-out part of the data set `name`. Raises InputError where it has none."""
    if files.validation is None:
        raise InputError(
            f"the study compares losses on held-out data, and {name} in {files.train[0].parent} "
            f"has none: {name}-val.npz is missing there"
        )
    return files.validation


_LOSSES = ("policy", "critic", "value")
_COLUMNS = {"bc_loss": "policy", "critic_loss": "critic", "q": "q"}


def saved(run: Path) -> tuple[TrainConfig, RunState]:
    """The configuration and the state of a finished run.

    Raises InputError where the run is not there any more.
    """
    try:
        config = Record.read(run).config
        return config, load_state(run / STATE, config)
    except InputError as error:
        raise InputError(
            f"{error}. The study measures its runs, not only their results: remove the directory "
            f"{run.parents[3]} to make all anew"
        ) from error


def measured(run: Path, data: HeldOutData) -> dict[str, Any]:
    """What one run came to.

    bc_rise  the largest rise of the logged held-out cloning loss above its least before, as a part
             of that; None for an agent whose policy has another loss
    """
    config, state = saved(run)
    sessions = Record.read(run).sessions
    peaks = [s["peak_process_bytes"] for s in sessions if s.get("peak_process_bytes")]
    curve = [row["validation_policy"] for row in state.metrics if "validation_policy" in row]
    return {
        "seed": config.seed,
        "parameters": state.checkpoint(config).count,
        **data.losses(state.train, config),
        "bc_rise": rise(curve) if config.agent == GUIDED else None,
        "state_bytes": state_bytes(state.train),
        "peak_process_bytes": max(peaks, default=None),
    }


def rise(curve: Sequence[float]) -> float:
    """max over t of curve[t] / min(curve[:t+1]) − 1: 0 for a loss that never rises.

    Raises InputError on an empty curve.
    """
    if not len(curve):
        raise InputError("a curve of losses needs at least one value: train more updates")
    values = np.asarray(curve, dtype=np.float64)
    return float((values / np.minimum.accumulate(values)).max() - 1)


def state_bytes(train: TrainState) -> int:
    """Of all networks, targets among them, and of Adam's moments."""
    groups = [net.params for net in vars(train.networks).values()]
    groups += [group for adam in train.moments.values() for group in (adam.mean, adam.square)]
    return sum(array.nbytes for group in groups for array in group.arrays())


def updates_per_second(
    runs: Mapping[str, Path], data: HeldOutData, rounds: int
) -> dict[str, float]:
    """By name, of one update of each run, its batch drawn: in seconds of processor time on one
    thread, so that what else the machine does counts for little. The median over rounds, in each
    of which every run has its turn and its fastest update counts.
    """
    updates = {name: _update(run, data) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with limited(1):
        for once in updates.values():
            once()  # compiles
        for _ in tracked(range(rounds), rounds, "round", title="timing"):
            for name, once in updates.items():
                seconds[name].append(min(_processor_seconds(once) for _ in range(_REPETITIONS)))
    return {name: 1 / float(np.median(each)) for name, each in seconds.items()}


def _processor_seconds(once: Callable[[], object]) -> float:
    started = process_time()
    once()
    # a clock of coarse ticks (Windows) must not give nothing
    return max(process_time() - started, 1e-6)


def _update(run: Path, data: HeldOutData) -> Callable[[], object]:
    config, state = saved(run)
    recipe, hyper = config.trained_agent().require_recipe(), config.hyperparameters()
    rng = np.random.default_rng(config.seed)

    def once() -> object:
        batch, drawn = training_batch(rng, data.data, config.batch, recipe, hyper)
        return update(recipe, state.train, batch, drawn, hyper)

    return once
