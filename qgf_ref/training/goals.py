"""Training on goals: trajectories and how a batch is drawn from them, by a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qgf_ref.agents.dqc_settings import DQCSettings
from qgf_ref.data.goals.batches import sample_goal_batch
from qgf_ref.data.goals.sampling import GoalLaw, GoalSampling
from qgf_ref.data.goals.trajectories import Trajectories, load_trajectories
from qgf_ref.data.tasks import GoalTask
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import GoalBatch
from qgf_ref.training.config import TrainConfig


@dataclass(frozen=True)
class GoalData(Trajectories):
    """Trajectories, and what is drawn from them."""

    sampling: GoalSampling = field(default_factory=GoalSampling)

    def batch(self, rng: np.random.Generator, rows: int) -> GoalBatch:
        """`rows` windows with goals, float32."""
        return sample_goal_batch(rng, self, rows, self.sampling)


def goal_settings(config: TrainConfig) -> DQCSettings:
    """The settings of an agent that reaches goals."""
    own = config.trained_agent().settings
    assert isinstance(own, DQCSettings)
    return own


def _law(own: DQCSettings, whose: str) -> GoalLaw:
    kinds = "p_curgoal", "p_trajgoal", "p_randomgoal", "geom_sample"
    try:
        return GoalLaw(*(getattr(own, f"{whose}_{kind}") for kind in kinds))
    except InputError as error:
        flags = ", ".join(f"--{whose}-{kind.replace('_', '-')}" for kind in kinds[:3])
        raise InputError(f"{flags}: {error}") from error


def load_goal_data(path: Path, problem: GoalTask, config: TrainConfig) -> GoalData:
    """One file of a goal-conditioned data set. Raises InputError as `load_trajectories`."""
    own = goal_settings(config)
    sampling = GoalSampling(
        horizon=own.backup_horizon,
        discount=config.discount,
        value_goals=_law(own, "value"),
        policy_goals=_law(own, "actor") if own.policy_goals else None,
    )
    loaded = load_trajectories(
        path, problem, horizon=own.backup_horizon, short=own.short_episodes,
        action_clip_eps=config.action_clip_eps,
    )  # fmt: skip
    return GoalData(**vars(loaded), sampling=sampling)


def fitted(config: TrainConfig, data: GoalData) -> TrainConfig:
    """The configuration with the width of the data's goals.

    Raises InputError where it states another one, chunks of two lengths, or other masks than those
    of goals, which are relabelled.
    """
    own = goal_settings(config)
    if config.masks != "relabelled":
        raise InputError(
            f"--masks {config.masks} is of one task's rewards: goals have none, and their masks "
            "are always relabelled"
        )
    if own.goal_dim not in (0, data.goal_dim):
        raise InputError(
            f"--goal-dim {own.goal_dim}: the data's goals have {data.goal_dim} columns"
        )
    if own.policy_chunk_size != config.horizon_length:
        raise InputError(
            f"a policy's chunk is stated twice, as --horizon-length {config.horizon_length} and as "
            f"--policy-chunk-size {own.policy_chunk_size}: give both alike"
        )
    stated = {**config.agent_settings, "goal_dim": data.goal_dim}
    return replace(config, agent_settings=stated)
