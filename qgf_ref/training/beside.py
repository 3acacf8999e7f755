"""Training an agent against the finished run of another one, whose networks stay as they are.

What is added to the run's directory, NAME being the agent's name (robust_q, cfgrl, distill, …):

    NAME.safetensors  the network, with what a resumed training needs; `qgf_ref.load` finds it there
    NAME.csv          its loss, on training and on validation data
    NAME.json         settings, versions, timing
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.step import TrainState
from qgf_ref.errors import InputError
from qgf_ref.files import (
    csv_bytes,
    require_writable,
    sole_use,
    user_path,
    write_atomically,
    write_json,
)
from qgf_ref.interop.auxiliary_file import (
    AuxiliaryFile,
    auxiliary_bytes,
    auxiliary_path,
    read_auxiliary,
)
from qgf_ref.interop.native import MODEL, load_native
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.provenance import provenance
from qgf_ref.tracking import Start, Tracking
from qgf_ref.training import loop
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import Record
from qgf_ref.training.run import open_data
from qgf_ref.training.state import RunState, generator, metric_rows, update_count

FREE = ("updates", "data", "backend", "threads")
"""Settings that a resumed training may change."""


@dataclass(frozen=True)
class TrainedBeside:
    """How a call of `train_beside` ended. rows: of NAME.csv; signal: the one that ended it."""

    directory: Path
    name: str
    updates: int
    rows: list[dict[str, float]]
    signal: int | None


def train_beside(
    agent: Agent, directory: Path, changes: Mapping[str, Any], tracking: Tracking | None = None
) -> TrainedBeside:
    """Train `agent` against the run in `directory`, or continue doing so.

    changes  settings of `TrainConfig` that differ from the run's: updates, batch, hidden, …
    tracking  is sent the losses
    Continued with the same settings on the same machine, the bits are those of a training that was
    never stopped. Raises InputError on an agent without a base or with another one, a directory
    without a finished run, another data set than the run's, settings other than those it was begun
    with, and while another process trains the same network; NonFiniteError naming the update when
    the loss is not finite (what was saved last stays).
    """
    directory = user_path(directory)
    record = Record.read(directory)
    if agent.base != record.config.agent:
        against = "no other" if agent.base is None else f"a run of {agent.base}"
        raise InputError(
            f"{agent.name} is trained against {against}; the run in {directory} is of "
            f"{record.config.agent}"
        )
    if record.last_update < record.config.updates:
        raise InputError(
            f"the run in {directory} has made {record.last_update} of {record.config.updates} "
            "updates, and what is trained against it now would not fit it later: finish it first, "
            f"with qgf-ref train --resume {directory}"
        )
    base = load_native(directory / MODEL, {})
    # T is the sampler's, which people may edit in config.json; nothing is evaluated here
    own = {"denoise_steps": base.options.denoise_steps, "evaluate_every": 0}
    config = replace(record.config, **{**own, **changes}).with_threads()
    place = BesideRunFiles(agent, config, base, directory)
    for file in (place.network_file, place.rows_file, place.record_file):
        require_writable(file)
    with ExitStack() as stack:
        busy = f"another process is training {agent.name} in {directory}"
        stack.enter_context(sole_use(directory / f".{agent.name}.lock", busy))
        feed, held_out = stack.enter_context(open_data(config, record))
        state = place.begin()
        if state.update > config.updates:
            raise InputError(
                f"{place.network_file} has made {state.update} updates already; --updates must be "
                f"at least that, got {config.updates}"
            )
        recipe, sent = agent.require_recipe(), tracking or Tracking()
        begun = Start(record.identity, state.update, agent.name)
        stack.enter_context(sent.run(directory, config.to_json(), begun))
        signal = loop.run(config, recipe, state, feed.at, held_out, place, tracking=sent)
    return TrainedBeside(directory, agent.name, state.update, state.metrics, signal)


class BesideRunFiles:
    """The three files of a training beside a run: see `qgf_ref.training.loop.RunFiles`."""

    columns: tuple[str, ...] = ("loss",)
    last_row = True

    def __init__(
        self, agent: Agent, config: TrainConfig, base: Checkpoint, directory: Path
    ) -> None:
        self.agent, self.config, self.base = agent, config, base
        (self.part,) = agent.parts
        self.network_file = auxiliary_path(directory, agent.name)
        self.rows_file = directory / f"{agent.name}.csv"
        self.record_file = directory / f"{agent.name}.json"

    def __str__(self) -> str:
        return str(self.network_file)

    def begin(self) -> RunState:
        """The saved state, or a new one; raises InputError when its settings are others."""
        agent, config, base, path = self.agent, self.config, self.base, self.network_file
        if not path.exists():
            rng, E = agent.generator(config.seed), config.ensemble
            initial = agent.initial(rng, base.obs_dim, base.flat_action_dim, config.hidden, E)
            params = initial[self.part.name]
            return RunState(0, self._train(params, AdamState.zero(params)), rng, np.zeros(1), [])
        stored = read_auxiliary(path, agent.name, base)
        try:
            about = json_object(stored.metadata["state"], "its state")
            settings = TrainConfig.from_json(about["config"], str(path))
            update, rng = update_count(about["update"]), generator(about["rng"])
            sums, rows = np.array([float(about["total"])]), metric_rows(about["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        same = replace(settings, **{f: getattr(config, f) for f in FREE})
        if same != config:
            theirs, ours = same.to_json(), config.to_json()
            other = ", ".join(f"{k} {v} (now {ours[k]})" for k, v in theirs.items() if v != ours[k])
            raise InputError(
                f"{path} was begun with {other}: give the same settings to continue it, or remove "
                "it to begin anew"
            )
        train = self._train(stored.params, AdamState(stored.mean, stored.square, update))
        return RunState(update, train, rng, sums, rows)

    def _train(self, params: MLPParams, moments: AdamState) -> TrainState:
        """The network to be trained among those of its base."""
        precision = self.base.time_precision("training")
        settings = self.base.network_settings(precision, self.config.kernels())
        of_base = {name: self.base.network(name, settings) for name in self.base.params}
        own = {self.part.name: self.part.network(params, settings)}
        return TrainState(Networks(**of_base, **own), {self.part.name: moments})

    def log(self, state: RunState) -> None:
        """Rows are written when all else is."""

    def save(self, state: RunState, first: int, seconds: float) -> None:
        """Write the three files, the state with the network."""
        network, adam = state.train.networks[self.part.name], state.train.moments[self.part.name]
        # numbers of updates in rows are floats, as in the files of earlier versions
        rows = [{**row, "update": float(row["update"])} for row in state.metrics]
        about = {
            "config": self.config.to_json(),
            "update": state.update,
            "rng": state.rng.bit_generator.state,
            "total": float(state.sums[0]),
            "rows": rows,
        }
        metadata = {"state": json.dumps(about)}
        stored = AuxiliaryFile(network.params, adam.mean, adam.square, metadata)
        data = auxiliary_bytes(self.agent.name, self.base, stored)
        write_atomically(self.network_file, data)
        write_atomically(self.rows_file, csv_bytes(rows))
        write_json(
            self.record_file,
            {
                "network": self.agent.name,
                "config": self.config.to_json(),
                "update": state.update,
                "parameters": network.params.count,
                "last_session": {"updates": state.update - first, "seconds": round(seconds, 1)},
                "provenance": provenance(),
            },
        )
