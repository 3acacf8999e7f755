"""What is measured: networks, batches, estimators, dtypes, threads, peers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.arrays import real_dtype
from qgf_ref.bench.timed_flow import TimedFlow
from qgf_ref.errors import InputError
from qgf_ref.flow.path import check_steps
from qgf_ref.guidance.registry import estimator
from qgf_ref.interop.load import load, load_as_stored
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.threads import available_cores

NETWORKS = ("3x256", "4x512", "4x1024")
BATCHES = (1, 16, 64, 256, 1024)
O, D, E, T = 28, 25, 2, 10
"""Sizes of the fresh networks: those of OGBench's cube-single with chunks of 5 actions."""
MOST_ROWS, WIDEST, DEEPEST = 1 << 17, 1 << 14, 64


class TimedCell(NamedTuple):
    """One cell of the table. network: "4x512", "checkpoint" or "flow"."""

    estimator: str
    dtype: str
    network: str
    batch: int

    def __str__(self) -> str:
        return f"{self.estimator}, {self.network}, batch {self.batch}, {self.dtype}"


class Peer(NamedTuple):
    """Another sampler: its name in tables, and package.module:function."""

    name: str
    spec: str


@dataclass(frozen=True)
class BenchSettings:
    """One measurement.

    networks    "3x256", …: hidden layers × width; not used with a checkpoint
    checkpoint  path of networks to measure instead, with `options` for `load`
    flow        package.module:function that returns a flow of anybody's networks to measure instead
    batches, estimators, dtypes, threads   the cells are all their combinations
    peers       other samplers (see `qgf_ref.bench.contenders.Sampler`)
    skip        contenders left out of some cells: ("numpy", 4096) above 4096 rows
    denoise_steps  T, instead of the networks' own
    weight      guidance weight
    rounds      turns of each contender; of cells whose rounds take long, fewer, but 3 at least
    turn        seconds that one turn lasts at least
    cell        seconds of timing that a cell may take, before its rounds are cut
    memory      whether to measure peak memory, in one more process for each contender
    Raises InputError on values outside their range, and on unknown estimators.
    """

    networks: tuple[str, ...] = NETWORKS
    checkpoint: str | None = None
    flow: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = BATCHES
    estimators: tuple[str, ...] = ("qgf",)
    dtypes: tuple[str, ...] = ("float32",)
    threads: tuple[int, ...] = ()
    backends: tuple[str, ...] = ("numba", "numpy")
    peers: tuple[Peer, ...] = ()
    skip: tuple[tuple[str, int], ...] = ()
    denoise_steps: int | None = None
    weight: float = 0.1
    rounds: int = 11
    turn: float = 0.05
    cell: float = 10.0
    memory: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.networks:
            hidden_of(name)
        for name in self.dtypes:
            real_dtype(name)
        for name in self.estimators:
            estimator(name)
        if self.denoise_steps is not None:
            check_steps(self.denoise_steps)
        for what, values, most in (
            ("batch", self.batches, MOST_ROWS),
            ("number of threads", self.threads, available_cores()),
            ("number of rounds", (self.rounds,), 1000),
        ):
            for value in values:
                if not 1 <= value <= most:
                    raise InputError(f"a {what} must be from 1 to {most}, got {value}")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"the weight must be a finite number ≥ 0, got {self.weight}")
        names = [*self.backends, *(p.name for p in self.peers)]
        if len(set(names)) != len(names):
            raise InputError(f"two contenders have the same name: {', '.join(names)}")

    def cells(self) -> Iterator[TimedCell]:
        """Every cell, the batch varying fastest."""
        networks = self.networks if self.checkpoint is None else ("checkpoint",)
        networks = networks if self.flow is None else ("flow",)
        for name in self.estimators:
            for dtype in self.dtypes:
                for network in networks:
                    for batch in self.batches:
                        yield TimedCell(name, dtype, network, batch)

    def skips(self, contender: str, batch: int) -> bool:
        """Whether this contender is left out at this batch."""
        return any(name == contender and batch > most for name, most in self.skip)

    def load(self, network: str) -> Checkpoint | TimedFlow:
        """The networks of a cell, float64, or those of the flow in their own dtype."""
        if self.flow is not None:
            return TimedFlow.named(self.flow)
        if self.checkpoint is not None:
            return load(self.checkpoint, dtype="float64", **self.options)
        return fresh_checkpoint(hidden_of(network), self.seed).astype("float64")

    def assumed(self) -> list[str]:
        """What was assumed of the names in the checkpoint's file."""
        if self.checkpoint is None:
            return []
        options = dict(self.options)
        options.pop("settings", None)
        chosen = [options.pop(name, None) for name in ("rules", "target_critic_from")]
        _, mapping = load_as_stored(self.checkpoint, options, *chosen)
        return mapping.notes if mapping else []

    def asdict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BenchSettings:
        """The inverse of `asdict`."""
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        lists["peers"] = tuple(Peer(*p) for p in values["peers"])
        lists["skip"] = tuple((name, most) for name, most in values["skip"])
        return cls(**{**values, **lists})


def hidden_of(network: str) -> tuple[int, ...]:
    """(512, 512, 512, 512) of "4x512". Raises InputError on anything else."""
    match = re.fullmatch(r"(\d{1,3})[x×](\d{1,6})", network)
    layers, width = map(int, match.groups()) if match else (0, 0)
    if not (1 <= layers <= DEEPEST and 1 <= width <= WIDEST):
        raise InputError(
            f"a network is written LAYERSxWIDTH, as 4x512 (at most {DEEPEST}x{WIDEST}), "
            f"got {network!r}"
        )
    return (width,) * layers


def fresh_checkpoint(
    hidden: tuple[int, ...], seed: int, *, action_dim: int = D, ensemble: int = E
) -> Checkpoint:
    """Networks at their initial values, float32, of the sizes `O` and `T` above; chunks of 5."""
    rng = np.random.default_rng(seed)
    options = Options("gelu", "min", T, 5, True, 0.99, 0.9)
    critic = init_value(rng, O + action_dim, hidden, ensemble=ensemble)
    policy, value = init_velocity(rng, O, action_dim, hidden), init_value(rng, O, hidden)
    return Checkpoint(options, policy, critic, critic, value)
