"""Small checkpoints of any agent, on whose networks mistakes show."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import Options
from qgf_ref.agents.registry import agent_with
from qgf_ref.arrays import Array

SPREAD = 0.2
"""By how much parameters are away from their initial values."""
VARIANTS: dict[str, dict[str, Any]] = {
    "edp": {"bc_weight": 3.0},
    "fql": {"alpha": 3.0},
    "fql ddpg": {"alpha": 3.0},
    "qam": {"inv_temp": 0.7},
    "qam ddpg": {"inv_temp": 3.0, "rho": 0.5, "best_of_n": 2},
    "dac": {"alpha": 3.0},
    "dac ddpg": {"alpha": 3.0, "rho": 0.5},
    "qsm": {"inv_temp": 0.3},
    "qsm ddpg": {"inv_temp": 0.3, "alpha": 2.0, "clip_sampler_before": False},
}
"""Settings of which every mistake of the agents' banks can be made with one or another."""


def variant(name: str, **shape: Any) -> Checkpoint:
    """A small checkpoint of one of the `VARIANTS`."""
    agent, _, critic = name.partition(" ")
    kind = {"critic_loss_type": critic} if critic else {}
    return small_agent(agent, {**VARIANTS[name], **kind}, **shape)


def small_agent(
    name: str,
    settings: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    obs_dim: int = 4,
    action_dim: int = 3,
    hidden: tuple[int, ...] = (9, 8),
    members: int = 2,
    aggregation: str = "mean",
    activation: str = "gelu",
    steps: int = 3,
    dtype: str = "float32",
) -> Checkpoint:
    """Random networks, averages apart from what they follow, some actions beyond ±1."""
    rng, agent = np.random.default_rng(seed), agent_with(name, settings or {})

    def moved(a: Array) -> Array:
        return a + SPREAD * rng.standard_normal(a.shape)

    params = agent.initial(rng, obs_dim, action_dim, hidden, members)
    wide = {part: values.astype("float64").map(moved) for part, values in params.items()}
    options = Options(activation, aggregation, steps, 1, True, 0.9, 0.8)
    return Checkpoint(options, params=wide, agent=agent, source=f"a small {name}").astype(dtype)
