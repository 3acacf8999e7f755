"""A training batch, and what an update needs beside batch and networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array

FlowTimes = Literal["grid", "uniform"]


@dataclass(frozen=True)
class Batch:
    """One training batch, chunk windows already flattened.

    obs (B, O); action (B, D); next_obs (B, O), the observation after the chunk; rewards (B,), the
    discounted sum within the chunk; masks (B,), 0 where the task ended; valid (B,), 0 where the
    window crosses the end of an episode.
    """

    obs: Array
    action: Array
    next_obs: Array
    rewards: Array
    masks: Array
    valid: Array

    def astype(self, dtype: DTypeLike) -> Batch:
        """Every array in another dtype."""
        return Batch(**{name: array.astype(dtype) for name, array in vars(self).items()})

    def rows(self, rows: slice | Array) -> Batch:
        """Some of the rows, or all in another order."""
        return Batch(**{name: array[rows] for name, array in vars(self).items()})


@dataclass(frozen=True)
class GoalBatch:
    """One goal-conditioned batch: a step of the critic's backup, and a chunk of actions.

    obs (B, O), s_i; action (B, h·A), the h actions from i on, flat, of which a policy's chunk of
    h_a ≤ h actions are the first h_a·A columns; goal (B, G) of critic and value; policy_goal (B, G)
    of the policy, or (B, 0) where it has none; next_obs (B, O), s_{i+k}; rewards (B,), γᵏ where
    the goal was reached within the window; masks (B,), 0 there; steps (B,) int64, k of the
    bootstrap γᵏ; valid (B, h) bool, where the action lies within the episode.
    row, goal_row, policy_goal_row (B,) int64: where state and goals lie in the data set (a goal of
    no one: −1). Source: goal_conditioned.md, section 1.
    """

    obs: Array
    action: Array
    goal: Array
    policy_goal: Array
    next_obs: Array
    rewards: Array
    masks: Array
    steps: Array
    valid: Array
    row: Array
    goal_row: Array
    policy_goal_row: Array

    def astype(self, dtype: DTypeLike) -> GoalBatch:
        """Every array in another dtype, but integers."""
        return GoalBatch(
            **{
                name: array if array.dtype.kind == "i" else array.astype(dtype, copy=False)
                for name, array in vars(self).items()
            }
        )

    def rows(self, rows: slice | Array) -> GoalBatch:
        """Some of the rows, or all in another order."""
        return GoalBatch(**{name: array[rows] for name, array in vars(self).items()})


AnyBatch = Batch | GoalBatch
"""What an update may be given: an agent that reaches goals needs the latter, the others the former.
"""


@dataclass(frozen=True)
class Hyperparameters:
    """What an update needs beside the networks. `horizon` is H of the bootstrap γᴴ.

    denoise_steps, flow_times: T of the sampler, and whether training times lie on its grid.
    """

    discount: float = 0.99
    horizon: int = 1
    expectile: float = 0.9
    tau: float = 0.005
    learning_rate: float = 3e-4
    denoise_steps: int = 10
    flow_times: FlowTimes = "grid"
