"""Training an auxiliary network against a finished run, whose own networks stay as they are.

What is added to the run's directory, NAME being robust_q, cfgrl or distill:

    NAME.safetensors  the network, with what a resumed training needs; `qgf_ref.load` finds it there
    NAME.csv          its loss, on training and on validation data
    NAME.json         settings, versions, timing
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import require_finite
from qgf_ref.data.windows import Transitions
from qgf_ref.errors import InputError, NonFiniteError, unknown_name
from qgf_ref.files import csv_bytes, require_writable, sole_use, write_atomically, write_json
from qgf_ref.interop.auxiliary_file import (
    AuxiliaryFile,
    auxiliary_bytes,
    auxiliary_path,
    read_auxiliary,
)
from qgf_ref.interop.native import MODEL, load_native
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.losses.optimiser import AdamState, adam
from qgf_ref.nets.auxiliary import AUXILIARY
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.provenance import provenance
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.extra_losses import LOSSES, Base, draw, initial, network
from qgf_ref.training.interruption import StopRequest
from qgf_ref.training.loop import VALIDATION_ROWS, VALIDATION_SEED
from qgf_ref.training.record import Record
from qgf_ref.training.run import open_data
from qgf_ref.training.state import generator, metric_rows, update_count

FREE = ("updates", "data", "backend", "threads")
"""Settings that a resumed training may change."""
_POSTFIX_EVERY = 50


@dataclass(frozen=True)
class ExtraTrained:
    """How a call of `train_extra` ended. rows: of NAME.csv; signal: the one that ended it."""

    directory: Path
    name: str
    updates: int
    rows: list[dict[str, float]]
    signal: int | None


@dataclass
class _State:
    update: int
    params: MLPParams
    adam: AdamState
    rng: np.random.Generator
    total: float
    rows: list[dict[str, float]]


def train_extra(name: str, directory: Path, changes: Mapping[str, Any]) -> ExtraTrained:
    """Train the auxiliary network `name` against the run in `directory`, or continue doing so.

    changes  settings of `TrainConfig` that differ from the run's: updates, batch, hidden, …
    Continued with the same settings on the same machine, the bits are those of a training that was
    never stopped. Raises InputError on a name that is none, a directory without a finished run,
    another data set than the run's, settings other than those it was begun with, and while another
    process trains the same network; NonFiniteError naming the update when the loss is not finite
    (what was saved last stays).
    """
    if name not in AUXILIARY:
        raise unknown_name("auxiliary network", name, AUXILIARY)
    record = Record.read(directory)
    if record.last_update < record.config.updates:
        raise InputError(
            f"the run in {directory} has made {record.last_update} of {record.config.updates} "
            "updates, and what is trained against it now would not fit it later: finish it first, "
            f"with qgf-ref train --resume {directory}"
        )
    checkpoint = load_native(directory / MODEL, {})
    # T is the sampler's, which people may edit in config.json; nothing is evaluated here
    own = {"denoise_steps": checkpoint.options.denoise_steps, "evaluate_every": 0}
    config = replace(record.config, **{**own, **changes}).with_threads()
    path = auxiliary_path(directory, name)
    files = path, directory / f"{name}.csv", directory / f"{name}.json"
    for file in files:
        require_writable(file)
    with ExitStack() as stack:
        busy = f"another process is training {name} in {directory}"
        stack.enter_context(sole_use(directory / f".{name}.lock", busy))
        feed, held_out = stack.enter_context(open_data(config, record))
        state = _begin(name, config, checkpoint, path)
        if state.update > config.updates:
            raise InputError(
                f"{path} has made {state.update} updates already; --updates must be at least that, "
                f"got {config.updates}"
            )
        signal = _run(name, config, checkpoint, state, feed.at, held_out, files)
    return ExtraTrained(directory, name, state.update, state.rows, signal)


def _run(
    name: str,
    config: TrainConfig,
    checkpoint: Checkpoint,
    state: _State,
    data_at: Callable[[int], Transitions],
    held_out: Transitions | None,
    files: tuple[Path, Path, Path],
) -> int | None:
    base, loss = Base.of(checkpoint, config.kernels()), LOSSES[name]
    net = network(name, checkpoint, state.params, config.kernels())
    fixed = None
    if held_out is not None:
        rng = np.random.default_rng(VALIDATION_SEED)
        fixed = draw(name, rng, held_out, replace(config, batch=VALIDATION_ROWS))
    bar = tqdm(
        total=config.updates, initial=state.update, unit="update", smoothing=0.05, disable=None
    )
    with threadpool_limits(config.threads), StopRequest() as stop, bar:
        started, first = time.perf_counter(), state.update

        def save() -> None:
            with stop.deferred():
                elapsed = time.perf_counter() - started
                _save(name, config, checkpoint, state, files, state.update - first, elapsed)

        while state.update < config.updates and not stop:
            n = state.update + 1
            with np.errstate(over="ignore", invalid="ignore"):
                value, bar_of = loss(net, base, *draw(name, state.rng, data_at(n), config))
                try:
                    require_finite(np.atleast_1d(value), f"the loss of {name}")
                except NonFiniteError as error:
                    raise NonFiniteError(
                        f"update {n}: {error}. A smaller --learning-rate may help; what was saved "
                        "last stays"
                    ) from error
                state.params, state.adam = adam(
                    state.params, bar_of, state.adam, config.learning_rate, kernels=net.kernels
                )
            net = replace(net, params=state.params)
            state.update, state.total = n, state.total + float(value)
            bar.update()
            if n % _POSTFIX_EVERY == 0:
                bar.set_postfix(loss=f"{value:.4g}", refresh=False)
            if n % config.log_every == 0 or n == config.updates:
                since = n - (state.rows[-1]["update"] if state.rows else 0)
                row = {"update": float(n), "loss": state.total / since}
                if fixed is not None:
                    row["validation_loss"] = float(loss(net, base, *fixed)[0])
                state.rows.append(row)
                state.total = 0.0
                if bar.disable:  # a log file gets lines instead of a bar
                    print("  ".join(f"{k} {v:.5g}" for k, v in row.items()), file=sys.stderr)
            if n % config.checkpoint_every == 0:
                save()
        save()
        return stop.signal


def _begin(name: str, config: TrainConfig, checkpoint: Checkpoint, path: Path) -> _State:
    """The state in `path`, or a new one; raises InputError when its settings are others."""
    if not path.exists():
        rng = np.random.default_rng((config.seed, AUXILIARY.index(name)))
        params = initial(name, rng, checkpoint, config.hidden)
        return _State(0, params, AdamState.zero(params), rng, 0.0, [])
    held = read_auxiliary(path, name, checkpoint)
    try:
        found = json_object(held.metadata["state"], "its state")
        settings = TrainConfig.from_json(found["config"], str(path))
        update, rng = update_count(found["update"]), generator(found["rng"])
        total, rows = float(found["total"]), metric_rows(found["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    same = replace(settings, **{f: getattr(config, f) for f in FREE})
    if same != config:
        theirs, ours = same.to_json(), config.to_json()
        other = ", ".join(f"{k} {v} (now {ours[k]})" for k, v in theirs.items() if v != ours[k])
        raise InputError(
            f"{path} was begun with {other}: give the same settings to continue it, or remove it "
            "to begin anew"
        )
    return _State(update, held.params, AdamState(held.mean, held.square, update), rng, total, rows)


def _save(
    name: str,
    config: TrainConfig,
    checkpoint: Checkpoint,
    state: _State,
    files: tuple[Path, Path, Path],
    updates: int,
    seconds: float,
) -> None:
    for layer, array in state.params.named():
        require_finite(array, f"{name} ({layer})")
    about = {
        "config": config.to_json(),
        "update": state.update,
        "rng": state.rng.bit_generator.state,
        "total": state.total,
        "rows": state.rows,
    }
    held = AuxiliaryFile(
        state.params, state.adam.mean, state.adam.square, {"state": json.dumps(about)}
    )
    network_file, rows_file, record_file = files
    write_atomically(network_file, auxiliary_bytes(name, checkpoint, held))
    write_atomically(rows_file, csv_bytes(state.rows))
    write_json(
        record_file,
        {
            "network": name,
            "config": config.to_json(),
            "update": state.update,
            "parameters": state.params.count,
            "last_session": {"updates": updates, "seconds": round(seconds, 1)},
            "provenance": provenance(),
        },
    )
