"""The training loop: batches, updates, metrics, saved states.

What a run's directory holds:

    model.safetensors, config.json  the checkpoint, which `qgf_ref.load` reads from the directory
    state.safetensors               everything a resumed run needs, in one piece, written first
    metrics.csv, losses.png         losses, on training and on validation data
    train.json                      configuration, data set, versions, commit, timing
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.arrays import Array, require_finite
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.windows import Transitions, sample_starts, windows
from qgf_ref.errors import NonFiniteError
from qgf_ref.files import csv_bytes, write_atomically
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.losses.batch import Batch
from qgf_ref.ops.ensemble import ensemble_reduce
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.curves import loss_curves
from qgf_ref.training.interruption import StopRequest
from qgf_ref.training.record import Record
from qgf_ref.training.state import LOSSES, RunState, save_state

STATE, METRICS, CURVES = "state.safetensors", "metrics.csv", "losses.png"
VALIDATION_ROWS = 2048
VALIDATION_SEED = 20_260_611
_POSTFIX_EVERY = 50


@dataclass(frozen=True)
class ValidationSet:
    """A fixed batch of held-out windows with fixed noise and times."""

    batch: Batch
    drawn: dict[str, Array]

    @classmethod
    def draw(cls, data: Transitions, config: TrainConfig) -> ValidationSet:
        """VALIDATION_ROWS windows, the same for every training seed."""
        rng = np.random.default_rng(VALIDATION_SEED)
        return cls(*training_batch(rng, data, replace(config, batch=VALIDATION_ROWS)))


def training_batch(
    rng: np.random.Generator, data: Transitions, config: TrainConfig
) -> tuple[Batch, dict[str, Array]]:
    """One batch of windows and the update's random numbers, float32."""
    starts = sample_starts(rng, data, config.batch, config.horizon_length)
    batch = windows(data, starts, config.horizon_length, config.discount).astype(np.float32)
    return batch, RECIPE.draw(rng, batch, config.hyperparameters())


def run(
    config: TrainConfig,
    state: RunState,
    data_at: Callable[[int], Transitions],
    validation: Transitions | None,
    directory: Path,
    record: Record,
    evaluate: Callable[[RunState], dict[str, float]] | None = None,
) -> int | None:
    """Update `state` up to config.updates, saving on the way. Returns the signal that ended it, if
    one did: everything is saved then too.

    data_at   the transitions that serve an update (a slice, or the whole data set)
    evaluate  success rates of the state, every config.evaluate_every updates
    Raises NonFiniteError naming update and network when a loss is not finite; what was saved last
    stays.
    """
    held_out = None if validation is None else ValidationSet.draw(validation, config)
    hyper = config.hyperparameters()
    saved = "Nothing was saved before."
    if state.update:
        saved = f"What was saved after update {state.update} is in {directory}."
    bar = tqdm(
        total=config.updates, initial=state.update, unit="update", smoothing=0.05, disable=None
    )
    threads = config.with_threads().threads
    at_once = threads if backend_named(config.backend).threaded and threads is not None else 1
    with threadpool_limits(threads), StopRequest() as stop, bar:
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
            with stop.deferred():
                record.progress(first, state.update, time.perf_counter() - started)
                save_run(config, state, directory, record)
            saved = f"What was saved after update {state.update} is in {directory}."

        while state.update < config.updates and not stop:
            n = state.update + 1
            batch, drawn = training_batch(state.rng, data_at(n), config)
            try:
                # what overflows is reported below, with update and network
                with np.errstate(over="ignore", invalid="ignore"):
                    state.train, result = update(RECIPE, state.train, batch, drawn, hyper, at_once)
            except NonFiniteError as error:
                raise diverged(n, error) from error
            state.update = n
            state.sums += tuple(result.values.values())
            bar.update()
            if n % _POSTFIX_EVERY == 0:
                bar.set_postfix(
                    policy=f"{result.values['policy']:.3f}",
                    critic=f"{result.values['critic']:.3f}",
                    value=f"{result.values['value']:.4f}",
                    refresh=False,
                )
            if n % config.log_every == 0:
                row = metrics_row(state, config.log_every, held_out, config)
                if evaluate is not None and n % config.evaluate_every == 0:
                    row |= evaluate(state)
                state.metrics.append(row)
                state.sums[:] = 0
                write_atomically(directory / METRICS, csv_bytes(state.metrics))
                if bar.disable:  # a log file gets lines instead of a bar
                    print(_line(row, n - first, time.perf_counter() - started), file=sys.stderr)
            if n % config.checkpoint_every == 0:
                save()
        save()
        return stop.signal


def metrics_row(
    state: RunState, updates: int, held_out: ValidationSet | None, config: TrainConfig
) -> dict[str, float]:
    """Losses averaged over the last `updates` updates, and on the validation set."""
    row: dict[str, float] = {"update": state.update}
    row |= {name: float(s) / updates for name, s in zip(LOSSES, state.sums, strict=True)}
    if held_out is not None:
        nets = state.train.networks
        hyper = config.hyperparameters()
        held = losses(RECIPE, nets, held_out.batch, held_out.drawn, hyper)
        row |= {f"validation_{name}": float(value) for name, value in held.values.items()}
        members, _ = nets.target_critic.forward(held_out.batch.obs, held_out.batch.action)
        row["validation_q"] = float(ensemble_reduce(members, config.q_aggregation)[0].mean())
    return row


def save_run(config: TrainConfig, state: RunState, directory: Path, record: Record) -> None:
    """Write everything that the directory holds, the state first: it can make all the others."""
    save_state(state, directory / STATE)
    save_checkpoint(state.checkpoint(config), directory)
    write_atomically(directory / METRICS, csv_bytes(state.metrics))
    record.write()
    if state.metrics:
        loss_curves(state.metrics, config.task, directory / CURVES)


def require_finite_parameters(train: TrainState) -> None:
    """Raise NonFiniteError naming the network whose parameters or moments are not finite."""
    for name, adam in train.moments.items():
        parts = {"": train.networks[name].params, "'s moments": adam.square}
        for part, params in parts.items():
            for layer, array in params.named():
                require_finite(array, f"the {name}{part} ({layer})")


def _line(row: dict[str, float], updates: int, seconds: float) -> str:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "update")
    return f"update {int(row['update'])}  {numbers}  {updates / seconds:.1f} updates/s"
