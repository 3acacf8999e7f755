"""The complete state of a run, in one file: what makes a resumed run continue bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import TrainState
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.files import write_atomically
from qgf_ref.interop.native import NETWORKS
from qgf_ref.interop.parameter_file import (
    parameter_groups,
    read_tensors,
    serialise,
)
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.training.config import TrainConfig

FORMAT, VERSION = "qgf_ref.training_state", "1"
LOSSES = ("policy", "critic", "value")


@dataclass
class RunState:
    """Everything that the next update depends on, and the metrics so far.

    update   number of updates made
    train    networks and Adam moments
    rng      the generator of batches, noise and times
    sums     (3,), float64: losses of policy, critic and value summed since the last row of metrics
    metrics  the rows of metrics.csv
    """

    update: int
    train: TrainState
    rng: np.random.Generator
    sums: Array
    metrics: list[dict[str, float]]

    def checkpoint(self, config: TrainConfig) -> Checkpoint:
        """The networks alone."""
        nets = self.train.networks
        return Checkpoint(
            config.options(), **{name: getattr(nets, name).params for name in NETWORKS}
        )


def initial_state(config: TrainConfig, obs_dim: int, action_dim: int) -> RunState:
    """The state before the first update: obs_dim O, action_dim A; the target is the critic's copy.

    Networks are float32 and embed times as the official float32 code does.
    """
    rng = np.random.default_rng(config.seed)
    D = action_dim * config.horizon_length
    critic = init_value(rng, obs_dim + D, config.hidden, ensemble=config.ensemble)
    checkpoint = Checkpoint(
        config.options(),
        policy=init_velocity(rng, obs_dim, D, config.hidden),
        critic=critic,
        target_critic=critic,
        value=init_value(rng, obs_dim, config.hidden),
    )
    networks = checkpoint.networks(embedding="float32", kernels=config.kernels())
    train = TrainState.create(RECIPE, networks)
    return RunState(0, train, rng, np.zeros(len(LOSSES)), [])


def save_state(state: RunState, path: Path) -> None:
    """Write `state` to a temporary name, then rename."""
    nets = state.train.networks
    groups = {name: getattr(nets, name).params for name in NETWORKS}
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
    }
    write_atomically(path, serialise(groups, metadata))


def load_state(path: Path, config: TrainConfig) -> RunState:
    """The state in `path`; raises InputError when it is damaged or not of this configuration."""
    tensors, metadata = read_tensors(path, FORMAT, VERSION)
    names = (*NETWORKS, *(f"{n}_{moment}" for n in LOSSES for moment in ("mean", "square")))
    groups = parameter_groups(tensors, names, str(path))
    try:
        values = {name: parse(json.loads(metadata[name])) for name, parse in _PARSERS.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    update = values["update"]
    networks_of: dict[str, Any] = {name: groups[name] for name in NETWORKS}
    checkpoint = Checkpoint(config.options(), **networks_of, source=str(path))
    hidden = tuple(int(layer.kernel.shape[-1]) for layer in groups["policy"].layers[:-1])
    if hidden != config.hidden or groups["critic"].ensemble != config.ensemble:
        raise InputError(
            f"{path} holds networks of {hidden} with {groups['critic'].ensemble} critics, the "
            f"configuration says {config.hidden} with {config.ensemble}"
        )
    networks = checkpoint.networks(embedding="float32", kernels=config.kernels())
    train = TrainState.create(RECIPE, networks)
    for name in LOSSES:
        like: MLPParams = getattr(checkpoint, name)
        moments = [groups[f"{name}_{moment}"] for moment in ("mean", "square")]
        for params in moments:
            if [a.shape for a in params.arrays()] != [a.shape for a in like.arrays()]:
                raise InputError(f"{path}: the moments of the {name} have other shapes than it")
        adam = {name: AdamState(moments[0], moments[1], count=update)}
        train = replace(train, moments={**train.moments, **adam})
    return RunState(update, train, values["rng"], values["sums"], values["metrics"])


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
    sums = np.array(value, dtype=np.float64)
    if sums.shape != (len(LOSSES),):
        raise ValueError(f"sums {value!r}")
    return sums


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
