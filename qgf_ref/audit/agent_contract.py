"""The contract of an agent: what its declarations oblige it to, clause by clause."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Acting, Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import Options
from qgf_ref.agents.part import Part
from qgf_ref.arrays import Array, whole_number
from qgf_ref.contracts import (
    NO_FAILURES,
    Broken,
    Clause,
    ContractReport,
    KnownFailures,
    Unchecked,
    fulfil,
)
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.parameter_file import parameter_groups, read_tensors, serialise
from qgf_ref.nets.initialisers import init_encoder
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.sampling import sample
from qgf_ref.threads import one_blas_thread

ROW_TOLERANCE = 1e-12
"""Measured ≤ 1e-15 on the paper's agent: BLAS sums a batch in another order than a row."""
ADJOINT_TOLERANCE = 1e-12
"""Of ⟨y_bar, J x_dot⟩ = ⟨Jᵀ y_bar, x_dot⟩, relative to the norms; measured ≤ 2e-15."""
OBS, ACTION, HIDDEN, MEMBERS, ROWS, COLUMNS = 5, 3, (7, 6), 2, 4, 5


@dataclass(frozen=True)
class AgentTrial:
    """An agent with random networks, and where it acts: obs (B, O), noise (B, D)."""

    agent: Agent
    seed: int = 0

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """In float64, biases and LayerNorms not at their initial values."""
        rng = np.random.default_rng(self.seed)
        params = {part.name: _random(part, rng) for part in self.agent.parts}
        options = Options("gelu", "min", 6, 1, True, 0.9, 0.8)
        return Checkpoint(options, params=params, agent=self.agent, source="a random checkpoint")

    @cached_property
    def inputs(self) -> tuple[Array, Array]:
        """obs and noise."""
        rng = np.random.default_rng((self.seed, 1))
        return rng.standard_normal((ROWS, OBS)), rng.standard_normal((ROWS, ACTION))

    def act(self, checkpoint: Checkpoint | None = None, rows: slice = slice(None)) -> Array:
        """The chunks for some of the rows."""
        obs, noise = (array[rows].copy() for array in self.inputs)
        return self.agent.act(checkpoint or self.checkpoint, obs, noise, Acting())


@one_blas_thread()
def check_agent(
    agent: Agent, *, known_failures: KnownFailures = NO_FAILURES, seed: int = 0
) -> ContractReport:
    """Check what an agent declares about its networks, and that it acts, on random networks.

    known_failures  clause → reason: it must fail

    Returns the report: what was checked, and what could not be, with the reason. Raises
    ContractError naming the first clause that is broken.
    """
    return fulfil([clause for _, clause in agent_checks(agent, seed=seed)], known_failures)


def agent_checks(agent: Agent, *, seed: int = 0) -> list[tuple[str, Clause]]:
    """The checks of `check_agent` by name, each a function without arguments, for pytest."""
    if not isinstance(agent, Agent):
        raise InputError(
            f"the first argument must be a qgf_ref.agents.agent.Agent, got {type(agent).__name__}"
        )
    trial = AgentTrial(agent, whole_number(seed, "seed"))
    return [(n, Clause(agent.name, n, partial(check, trial))) for n, check in CHECKS.items()]


def _random(part: Part, rng: np.random.Generator) -> MLPParams:
    fan_in, layers, encoder = part.in_features(OBS, ACTION), [], None
    if "step" in part.inputs:
        encoder = init_encoder(rng, HIDDEN, COLUMNS, "float64")
        fan_in += COLUMNS
    lead = (MEMBERS,) if part.ensemble else ()
    for width in (*HIDDEN, part.out_features(ACTION)):
        kernel = rng.standard_normal((*lead, fan_in, width)) / np.sqrt(fan_in)
        layers.append(LayerParams(kernel, 0.2 * rng.standard_normal((*lead, width))))
        fan_in = width
    table = rng.standard_normal((2, 32)) if "label" in part.inputs else None
    return MLPParams(tuple(layers), table, encoder)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def _parts(trial: AgentTrial) -> None:
    parts = {part.name: part for part in trial.agent.parts}
    _require(len(parts) == len(trial.agent.parts), "two parts have one name")
    _require(any(part.acting for part in parts.values()), "no part is needed to act")
    for part in parts.values():
        if part.target_of is None:
            continue
        _require(part.target_of in parts, f"{part.name} follows {part.target_of}, which is no part")
        online = parts[part.target_of]
        for what in ("inputs", "outputs", "ensemble"):
            ours, theirs = getattr(part, what), getattr(online, what)
            _require(
                ours == theirs,
                f"{part.name} has {what} {ours}, but what it follows, {online.name}, {theirs}",
            )


def _networks(trial: AgentTrial) -> None:
    """⟨y_bar, J x_dot⟩ = ⟨Jᵀ y_bar, x_dot⟩ in the active input of every part's network."""
    for part in trial.agent.parts:
        values: dict[str, Any] = {"time": 0.3, "label": 1, "step": 2}
        values |= {"obs": trial.inputs[0], "action": trial.inputs[1], "noise": trial.inputs[1]}
        values = part.fitted(values)
        net = trial.checkpoint.network(part.name)
        y, cache = net.joint(**values)
        rng = np.random.default_rng(trial.seed)
        x_dot, y_bar = (rng.standard_normal(np.shape(a)) for a in (values[net.active], y))
        y_dot, x_bar = net.jvp(x_dot, cache), net.vjp(y_bar, cache)
        gap = abs(np.vdot(y_bar, y_dot) - np.vdot(x_bar, x_dot))
        scale = np.linalg.norm(y_bar) * np.linalg.norm(y_dot)
        _require(
            bool(gap <= ADJOINT_TOLERANCE * scale),
            f"{part.name}: its jvp and vjp are not adjoint, by {gap / scale:.1e} of the norms",
        )


def _stored(trial: AgentTrial) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m.safetensors"
        about = {"format": "qgf_ref.contract", "version": "1"}
        path.write_bytes(serialise(trial.checkpoint.params, about))
        tensors, _ = read_tensors(path, *about.values())
    groups = parameter_groups(tensors, trial.agent.part_names, "the stored networks")
    for name, params in trial.checkpoint.params.items():
        arrays = zip(params.arrays(), groups[name].arrays(), strict=True)
        same = all(np.array_equal(a, b) for a, b in arrays)
        _require(same, f"{name} does not come back from a file as it was")


def _other_processes(trial: AgentTrial) -> None:
    there = pickle.loads(pickle.dumps(trial.checkpoint))  # noqa: S301  (just written)
    here, chunks = trial.act(), there.agent.act(there, *trial.inputs, Acting())
    _require(np.array_equal(here, chunks), "sent to another process, it acts otherwise")


def _acts(trial: AgentTrial) -> None:
    for dtype in ("float64", "float32"):
        chunks = trial.act(trial.checkpoint.astype(dtype))
        expected = (ROWS, ACTION)
        _require(chunks.shape == expected, f"chunks of shape {chunks.shape}, expected {expected}")
        _require(bool(np.isfinite(chunks).all()), "a chunk is not finite")
        _require(bool(np.abs(chunks).max() <= 1), "a chunk leaves the action bound of ±1")
        _require(chunks.dtype == dtype, f"chunks are {chunks.dtype} where the networks are {dtype}")


def _deterministic(trial: AgentTrial) -> None:
    _require(np.array_equal(trial.act(), trial.act()), "the same call gave other bits")


def _leaves_its_input(trial: AgentTrial) -> None:
    obs, noise = (array.copy() for array in trial.inputs)
    trial.agent.act(trial.checkpoint, obs, noise, Acting())
    for name, now, before in zip(("obs", "noise"), (obs, noise), trial.inputs, strict=True):
        _require(np.array_equal(now, before), f"it changed {name} in place")


def _row_independence(trial: AgentTrial) -> None:
    whole = trial.act()
    for i in range(ROWS):
        gap = np.abs(trial.act(rows=slice(i, i + 1)) - whole[i]).max()
        _require(bool(gap <= ROW_TOLERANCE), f"row {i} alone and in its batch differ by {gap:.1e}")


def _expects(trial: AgentTrial) -> None:
    try:
        q = trial.agent.q(trial.checkpoint, trial.inputs[0], trial.act())
    except NotImplementedError:
        raise Unchecked("it has no q: it can act, not be evaluated") from None
    _require(q.shape == (ROWS,), f"q has shape {q.shape}, expected ({ROWS},)")
    _require(bool(np.isfinite(q).all()), "a q is not finite")


def _flow(trial: AgentTrial) -> None:
    try:
        flow = trial.checkpoint.flow
    except InputError:
        raise Unchecked("it has no flow") from None
    _require(isinstance(flow, GuidedFlow), f"its flow is a {type(flow).__name__}")
    obs, noise = trial.inputs
    expected = sample(flow, obs, estimator="none", noise=noise)
    _require(np.array_equal(trial.act(), expected), "it does not act as its flow is sampled")


CHECKS: dict[str, Callable[[AgentTrial], None]] = {
    "parts": _parts,
    "networks": _networks,
    "stored": _stored,
    "acts": _acts,
    "deterministic": _deterministic,
    "leaves_its_input": _leaves_its_input,
    "row_independence": _row_independence,
    "other_processes": _other_processes,
    "expects": _expects,
    "flow": _flow,
}
"""What an agent must satisfy; its recipe is checked where it is trained (`tests/agents`)."""
