"""The training loop of every agent: batches, updates, metrics, saved states."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.stage import StageInputs
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.arrays import Array, require_finite
from qgf_ref.backends.engine import backend_named
from qgf_ref.backends.interface import Residence
from qgf_ref.data.windows import Transitions, sample_starts, windows
from qgf_ref.errors import NonFiniteError
from qgf_ref.losses.batch import AnyBatch, Batch, Hyperparameters
from qgf_ref.progress import progress
from qgf_ref.threads import limited
from qgf_ref.tracking import Tracking
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.goals import GoalData
from qgf_ref.training.interruption import StopRequest
from qgf_ref.training.state import RunState

TrainingData = Transitions | GoalData
VALIDATION_ROWS = 2048
VALIDATION_SEED = 20_260_611
_POSTFIX_EVERY = 50


class RunFiles(Protocol):
    """Where a training leaves its files; str() names it to people."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the losses in tables, in the recipe's order."""

    @property
    def last_row(self) -> bool:
        """Whether the last update ends a row of metrics, wherever it falls."""

    def log(self, state: RunState) -> None:
        """Write the rows of metrics so far."""

    def save(self, state: RunState, first: int, seconds: float) -> None:
        """Write everything, of a session that began after update `first` and took `seconds`."""


@dataclass(frozen=True)
class ValidationSet:
    """A fixed batch of held-out windows with fixed random numbers."""

    batch: AnyBatch
    drawn: dict[str, Array]

    @classmethod
    def draw(
        cls,
        data: TrainingData,
        recipe: Recipe,
        hyper: Hyperparameters,
        place: Residence | None = None,
    ) -> ValidationSet:
        """VALIDATION_ROWS windows, the same for every training seed; place as in `run`."""
        rng = np.random.default_rng(VALIDATION_SEED)
        return cls(*training_batch(rng, data, VALIDATION_ROWS, recipe, hyper, place))

    def metrics(
        self, recipe: Recipe, train: TrainState, hyper: Hyperparameters, columns: tuple[str, ...]
    ) -> dict[str, float]:
        """The losses on it, and what else the recipe reports."""
        of_batch = losses(recipe, train.networks, self.batch, self.drawn, hyper)
        values = dict(zip(columns, of_batch.values.values(), strict=True))
        values |= recipe.held_out(StageInputs(train.networks, self.batch, hyper, self.drawn))
        return {f"validation_{name}": float(value) for name, value in values.items()}


def training_batch(
    rng: np.random.Generator,
    data: TrainingData,
    rows: int,
    recipe: Recipe,
    hyper: Hyperparameters,
    place: Residence | None = None,
) -> tuple[AnyBatch, dict[str, Array]]:
    """One batch of windows and the random numbers of its update, float32; in `place`, if given."""
    batch: AnyBatch
    if isinstance(data, GoalData):
        batch = data.batch(rng, rows)
        batch = batch if place is None else place.upload(batch)
    else:
        starts = sample_starts(rng, data, rows, hyper.horizon)
        window = starts, hyper.horizon, hyper.discount

        def on_host() -> Batch:
            return windows(data, *window).astype(np.float32)

        batch = on_host() if place is None else place.windows(data, *window, on_host)
    drawn = recipe.draw(rng, batch, hyper)
    return batch, drawn if place is None else {n: place.put(a) for n, a in drawn.items()}


def run(
    config: TrainConfig,
    recipe: Recipe,
    state: RunState,
    data_at: Callable[[int], TrainingData],
    validation: TrainingData | None,
    files: RunFiles,
    evaluate: Callable[[RunState], dict[str, float]] | None = None,
    tracking: Tracking | None = None,
) -> int | None:
    """Update `state` up to config.updates, saving on the way. Returns the signal that ended it, if
    one did: everything is saved then too.

    data_at   the data that serve an update (a slice, or the whole data set)
    evaluate  success rates of the state, every config.evaluate_every updates
    tracking  is sent every row of metrics
    Raises NonFiniteError naming update and loss when a loss is not finite; what was saved last
    stays.
    """
    hyper = config.hyperparameters()
    backend = backend_named(config.backend)
    place = backend.residence() if backend.residence is not None and recipe.resident else None
    held_out = None
    if validation is not None:
        held_out = ValidationSet.draw(validation, recipe, hyper, place)
    saved = "Nothing was saved before."
    if state.update:
        saved = f"What was saved after update {state.update} is in {files}."
    terminal = sys.stderr.isatty()
    shown = progress(config.updates, "update", first=state.update, show=terminal)
    threads = config.with_threads().threads
    at_once = threads if backend.threaded and threads is not None else 1
    with limited(threads), StopRequest() as stop, shown as job:
        started, first = time.perf_counter(), state.update

        def diverged(update: int, error: NonFiniteError) -> NonFiniteError:
            return NonFiniteError(
                f"update {update}: {error}. {saved} A new run with a smaller --learning-rate, or a "
                "look at the data set's rewards, may help"
            )

        def save() -> None:
            nonlocal saved
            try:
                require_finite_parameters(state.train)
            except NonFiniteError as error:
                raise diverged(state.update, error) from error
            with stop.deferred(), at_home(state, place):
                files.save(state, first, time.perf_counter() - started)
            saved = f"What was saved after update {state.update} is in {files}."

        if place is not None:
            state.train = state.train.map(place.put)
        while state.update < config.updates and not stop:
            n = state.update + 1
            data = data_at(n)
            batch, drawn = training_batch(state.rng, data, config.batch, recipe, hyper, place)
            try:
                # what overflows is reported below, with update and network
                with np.errstate(over="ignore", invalid="ignore"):
                    state.train, result = update(recipe, state.train, batch, drawn, hyper, at_once)
            except NonFiniteError as error:
                raise diverged(n, error) from error
            values = dict(zip(files.columns, result.values.values(), strict=True))
            state.update = n
            state.sums += tuple(values.values())
            job.advance()
            if n % _POSTFIX_EVERY == 0:
                job.say(", ".join(f"{k}={v:.4g}" for k, v in values.items()))
            if n % config.log_every == 0 or (files.last_row and n == config.updates):
                row = {"update": n, **state.mean_losses(files.columns)}
                if held_out is not None:
                    row |= held_out.metrics(recipe, state.train, hyper, files.columns)
                if evaluate is not None and n % config.evaluate_every == 0:
                    with at_home(state, place):
                        row |= evaluate(state)
                state.metrics.append(row)
                state.sums[:] = 0
                files.log(state)
                if tracking is not None:
                    tracking.scalars({k: v for k, v in row.items() if k != "update"}, n)
                if not terminal:  # a log file gets lines instead of a bar
                    print(_line(row, n - first, time.perf_counter() - started), file=sys.stderr)
            if n % config.checkpoint_every == 0:
                save()
        save()
        if place is not None:
            state.train = state.train.map(place.get)
        return stop.signal


@contextmanager
def at_home(state: RunState, place: Residence | None) -> Iterator[None]:
    """The state's arrays in NumPy's memory meanwhile, wherever they are."""
    there = state.train
    if place is not None:
        state.train = there.map(place.get)
    try:
        yield
    finally:
        state.train = there


def require_finite_parameters(train: TrainState) -> None:
    """Raise NonFiniteError naming the network whose parameters or moments are not finite."""
    for name, adam in train.moments.items():
        arrays = {"": train.networks[name].params, "'s moments": adam.square}
        for what, params in arrays.items():
            for layer, array in params.named():
                require_finite(array, f"the {name}{what} ({layer})")


def _line(row: dict[str, float], updates: int, seconds: float) -> str:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "update")
    return f"update {int(row['update'])}  {numbers}  {updates / seconds:.1f} updates/s"
