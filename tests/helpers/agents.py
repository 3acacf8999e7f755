"""Small checkpoints of any agent, on whose networks mistakes show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import Options
from qgf_ref.agents.registry import agent_with
from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams

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
    "dqc": {"goal_dim": 2, "backup_horizon": 5, "policy_chunk_size": 2, "kappa_d": 0.7},
    "dqc distilling quantiles": {
        "goal_dim": 2, "backup_horizon": 5, "policy_chunk_size": 2, "kappa_d": 0.7,
        "distill_method": "quantile", "implicit_backup_type": "expectile",
        "policy_goals": False, "policy_network": "dqc",
    },
    "dqc n-step": {
        "goal_dim": 2, "backup_horizon": 5, "policy_chunk_size": 2, "kappa_d": 0.7,
        "use_chunk_critic": False, "distill_method": "quantile", "policy_network": "dqc",
    },
}  # fmt: skip
"""Settings of which every mistake of the agents' banks can be made with one or another."""


def variant(name: str, own: dict[str, Any] | None = None, **shape: Any) -> Checkpoint:
    """A small checkpoint of one of the `VARIANTS`; own: other settings than its own."""
    agent, _, critic = name.partition(" ")
    kind = {"critic_loss_type": critic} if critic == "ddpg" else {}
    return small_agent(agent, {**VARIANTS[name], **kind, **(own or {})}, **shape)


def showing(name: str, mistake: str) -> Checkpoint:
    """A variant's checkpoint that shows this mistake: most do; T10, T11 and T14 need one of theirs.

    Where a target is met exactly, it and what learns it say 0.1, of ensembles one member; where a
    bound binds, one of the chunk critic says 12.
    """
    if mistake == "backup-of-one-member-over-batch":
        return variant(name, members=1)
    if mistake.endswith("-strict"):
        ck, distilled = variant(name, aggregation="min"), mistake.startswith("distillation")
        tied = ("chunk_critic", "action_critic") if distilled else ("target_action_critic", "value")
        return ck.with_params(**{part: saying(0.1, ck.params[part]) for part in tied})
    ck = variant(name)
    if mistake == "distillation-bound-float32" and "chunk_critic" in ck.params:
        return ck.with_params(chunk_critic=saying(12, ck.params["chunk_critic"]))
    return ck


def saying(number: float, params: MLPParams) -> MLPParams:
    """The same, whose first member says this number everywhere."""
    *layers, last = params.layers
    kernel, bias = last.kernel.copy(), last.bias.copy()
    first = 0 if params.ensemble else slice(None)
    kernel[first], bias[first] = 0, number
    return MLPParams((*layers, replace(last, kernel=kernel, bias=bias)))


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

    own: Any = agent.settings
    chunk = own.policy_chunk_size if agent.of_goals else 1
    obs_dim += own.goal_dim if agent.of_goals else 0
    params = agent.initial(rng, obs_dim, action_dim * chunk, hidden, members)
    wide = {part: values.astype("float64").map(moved) for part, values in params.items()}
    options = Options(activation, aggregation, steps, chunk, True, 0.9, 0.8)
    return Checkpoint(options, params=wide, agent=agent, source=f"a small {name}").astype(dtype)
