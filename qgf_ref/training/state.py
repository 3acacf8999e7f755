"""The complete state of a training: what makes a resumed one continue bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.shapes import hidden_widths
from qgf_ref.agents.step import TrainState
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.files import write_atomically
from qgf_ref.interop.parameter_file import (
    parameter_groups,
    read_tensors,
    serialise,
)
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.provenance import notes
from qgf_ref.training.config import TrainConfig

FORMAT, VERSION = "qgf_ref.training_state", "1"


@dataclass
class RunState:
    """Everything that the next update depends on, and the metrics so far.

    update   number of updates made
    train    networks and Adam moments
    rng      the generator of batches, noise and times
    sums     float64: the recipe's losses summed since the last row of metrics
    metrics  the rows of metrics.csv
    notes    what `qgf_ref.provenance.notes` said when some of the updates were made, if anything
    """

    update: int
    train: TrainState
    rng: np.random.Generator
    sums: Array
    metrics: list[dict[str, float]]
    notes: dict[str, str] = field(default_factory=dict)

    def mean_losses(self, names: Sequence[str]) -> dict[str, float]:
        """Of the updates since the last row of metrics."""
        since = self.update - (self.metrics[-1]["update"] if self.metrics else 0)
        return {name: float(s) / since for name, s in zip(names, self.sums, strict=True)}

    def checkpoint(self, config: TrainConfig) -> Checkpoint:
        """The networks alone."""
        agent = config.trained_agent()
        params = {name: self.train.networks[name].params for name in agent.part_names}
        return Checkpoint(config.options(), params=params, agent=agent)


def initial_state(config: TrainConfig, obs_dim: int, action_dim: int) -> RunState:
    """The state before the first update: obs_dim O, action_dim A; targets are copies.

    Networks are float32 and embed times as the official float32 code does.
    """
    agent = config.trained_agent()
    rng = agent.generator(config.seed)
    D = action_dim * config.horizon_length
    params = agent.initial(rng, obs_dim, D, config.hidden, config.ensemble)
    checkpoint = Checkpoint(config.options(), params=params, agent=agent)
    train = train_state(agent, checkpoint, config)
    return RunState(0, train, rng, np.zeros(len(train_losses(agent))), [])


def train_losses(agent: Agent) -> tuple[str, ...]:
    """The names of an agent's losses."""
    return agent.require_recipe().losses


def train_state(agent: Agent, checkpoint: Checkpoint, config: TrainConfig) -> TrainState:
    """The networks of a checkpoint before their first update, on the configuration's backend."""
    networks = checkpoint.networks(
        embedding=checkpoint.time_precision("training"), kernels=config.kernels()
    )
    return TrainState.create(agent.require_recipe(), networks)


def save_state(state: RunState, path: Path, agent: str = "iql") -> None:
    """Write the state of a training of `agent` to a temporary name, then rename."""
    groups = {name: net.params for name, net in vars(state.train.networks).items()}
    for name, adam in state.train.moments.items():
        groups |= {f"{name}_mean": adam.mean, f"{name}_square": adam.square}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "update": json.dumps(state.update),
        "rng": json.dumps(state.rng.bit_generator.state),
        # repr of a float64 reads back as the same float64
        "sums": json.dumps(state.sums.tolist()),
        "metrics": json.dumps(state.metrics),
        **({} if agent == "iql" else {"agent": agent}),
        **_noted(state.notes | notes()),
    }
    write_atomically(path, serialise(groups, metadata))


def _noted(found: dict[str, str]) -> dict[str, str]:
    return {"notes": json.dumps(found)} if found else {}


def load_state(path: Path, config: TrainConfig) -> RunState:
    """The state in `path`; raises InputError when it is damaged or not of this configuration."""
    agent = config.trained_agent()
    tensors, metadata = read_tensors(path, FORMAT, VERSION)
    if metadata.get("agent", "iql") != agent.name:
        raise InputError(f"{path} is not of a training of the agent {agent.name}")
    trained = agent.require_recipe().trained
    names = (*agent.part_names, *(f"{n}_{m}" for n in trained for m in ("mean", "square")))
    groups = parameter_groups(tensors, names, str(path))
    try:
        values = {name: parse(json.loads(metadata[name])) for name, parse in _PARSERS.items()}
        if values["sums"].shape != (len(train_losses(agent)),):
            raise ValueError(f"sums {metadata['sums']}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    params = {name: groups[name] for name in agent.part_names}
    checkpoint = Checkpoint(config.options(), params=params, source=str(path), agent=agent)
    _require_sizes(agent, params, config, path)
    train = train_state(agent, checkpoint, config)
    moments = {
        name: moments_like(
            params[name], groups[f"{name}_mean"], groups[f"{name}_square"], values["update"],
            f"{path}: the moments of the {name} have other shapes than it",
        )
        for name in trained
    }  # fmt: skip
    train = replace(train, moments=moments)
    noted = json.loads(metadata.get("notes", "{}"))
    return RunState(
        values["update"], train, values["rng"], values["sums"], values["metrics"], noted
    )


def moments_like(
    params: MLPParams, mean: MLPParams, square: MLPParams, count: int, otherwise: str
) -> AdamState:
    """Adam's state of `params`; raises InputError with the text `otherwise` on other shapes."""
    shapes = [[a.shape for a in group.arrays()] for group in (params, mean, square)]
    if shapes[1:] != shapes[:1] * 2:
        raise InputError(otherwise)
    return AdamState(mean, square, count)


def _require_sizes(
    agent: Agent, params: dict[str, MLPParams], config: TrainConfig, path: Path
) -> None:
    for part in agent.parts:
        hidden, members = tuple(hidden_widths(params[part.name])), params[part.name].ensemble
        if hidden != config.hidden or (part.ensemble and members != config.ensemble):
            raise InputError(
                f"{path} holds networks of {hidden} with {members or 1} members ({part.name}), the "
                f"configuration says {config.hidden} with {config.ensemble}"
            )


def generator(state: Any) -> np.random.Generator:
    """The generator whose `bit_generator.state` was `state`."""
    generator = np.random.PCG64()
    generator.state = state
    return np.random.Generator(generator)


def update_count(value: Any) -> int:
    """A number of updates as JSON has it; raises ValueError unless it is an integer ≥ 0."""
    if type(value) is not int or value < 0:
        raise ValueError(f"update {value!r}")
    return value


def _sums(value: Any) -> Array:
    return np.array(value, dtype=np.float64)


def metric_rows(value: Any) -> list[dict[str, float]]:
    """Rows of metrics as JSON has them; raises ValueError unless it is a list of objects."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("metrics is no list of rows")
    return value


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "update": update_count,
    "rng": generator,
    "sums": _sums,
    "metrics": metric_rows,
}
