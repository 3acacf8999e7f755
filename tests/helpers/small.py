"""Small agents for tests, and for benchmarks where there is no pytest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.arrays import Array
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.nets.initialisers import init_table, init_value, init_velocity
from qgf_ref.nets.joint import LABEL_COLUMNS
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.time_embedding import DIM


def small_checkpoint(
    seed: int = 0,
    *,
    obs_dim: int = 5,
    action_dim: int = 3,
    hidden: tuple[int, ...] = (11, 10, 9),
    members: int = 2,
    aggregation: str = "min",
    activation: str = "gelu",
    steps: int = 6,
    dtype: str = "float64",
) -> Checkpoint:
    """Random networks whose LayerNorm scales, offsets and biases are not at their initial values,
    and whose velocities are large enough that some one-step estimates are clipped. It has every
    auxiliary network, of other widths.
    """
    rng = np.random.default_rng(seed)
    options = Options(activation, aggregation, steps, 1, True, 0.9, 0.8)

    def perturbed(a: Array) -> Array:
        return a + 0.2 * rng.standard_normal(a.shape)

    policy = init_velocity(rng, obs_dim, action_dim, hidden, dtype="float64").map(perturbed)
    critic = init_value(rng, obs_dim + action_dim, hidden, ensemble=members, dtype="float64")
    value = init_value(rng, obs_dim, hidden, dtype="float64")
    return Checkpoint(
        options,
        policy,
        critic.map(perturbed),
        critic.map(perturbed),
        value.map(perturbed),
        auxiliary=small_auxiliary(seed, obs_dim, action_dim),
    ).astype(dtype)


def small_auxiliary(seed: int, obs_dim: int, action_dim: int) -> AuxiliaryParams:
    """Random auxiliary networks, their parameters not at the initial values either."""
    rng = np.random.default_rng((seed, 1))

    def perturbed(a: Array) -> Array:
        return a + 0.2 * rng.standard_normal(a.shape)

    O, D, hidden = obs_dim, action_dim, (8, 7)
    return AuxiliaryParams(
        init_value(rng, O + D + DIM, hidden, dtype="float64").map(perturbed),
        conditional_params(rng, O, D, hidden).map(perturbed),
        init_velocity(rng, O, D, hidden, dtype="float64").map(perturbed),
    )


def conditional_params(
    rng: np.random.Generator, obs_dim: int, action_dim: int, hidden: Sequence[int]
) -> MLPParams:
    """Initial parameters of a `ConditionalVelocity`: a table, and a velocity's that reads it."""
    table = init_table(rng, "float64")
    trunk = init_velocity(rng, obs_dim + LABEL_COLUMNS, action_dim, hidden, dtype="float64")
    return MLPParams(trunk.layers, table)


def states(checkpoint: Checkpoint, rows: int, seed: int = 1) -> tuple[Array, Array]:
    """Observations (rows, O) and actions (rows, D), some of them outside [−1, 1]."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, checkpoint.obs_dim))
    return obs, rng.standard_normal((rows, checkpoint.flat_action_dim))
