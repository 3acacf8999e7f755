"""What is in a goal-conditioned data set, and what a batch drawn from it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qgf_ref.data.datasets import DatasetFiles
from qgf_ref.data.goals.batches import goal_batch
from qgf_ref.data.goals.sampling import GoalSampling, draw
from qgf_ref.data.goals.trajectories import ShortEpisodes, Trajectories, load_trajectories
from qgf_ref.data.tasks import GoalTask
from qgf_ref.losses.batch import GoalBatch


@dataclass(frozen=True)
class GoalShares:
    """Shares of a batch's rows, which critic and value learn from.

    reached     with a goal within the window: reward γᵏ, nothing is bootstrapped
    current     with the state itself as goal (part of `reached`)
    same_state  bootstrapped although the state has the goal's representation: success is equality
                of rows, and the value is too low there (T3)
    """

    reached: float
    current: float
    same_state: float


@dataclass(frozen=True)
class GoalSummary:
    """A data set: sizes over all of its training files, shares of a batch of the first.

    short         episodes of T ≤ horizon, which contribute nothing
    starts        windows, and random goals
    memory_bytes  of the largest file's trajectories; goal_bytes: what of it only goals need
    """

    task: GoalTask
    files: tuple[Path, ...]
    episodes: int
    shortest: int
    longest: int
    short: int
    transitions: int
    starts: int
    widths: dict[str, int]
    memory_bytes: int
    goal_bytes: int
    shares: GoalShares


def shares_of(data: Trajectories, batch: GoalBatch) -> GoalShares:
    """The shares of one h-step batch."""
    reached = batch.masks == 0
    same = (data.goals(batch.row) == batch.goal).all(axis=1)
    return GoalShares(
        reached=float(reached.mean()),
        current=float((batch.row == batch.goal_row).mean()),
        same_state=float((same & ~reached).mean()),
    )


def summary(
    task: GoalTask,
    found: DatasetFiles,
    sampling: GoalSampling,
    *,
    short: ShortEpisodes = "refuse",
    rows: int = 4096,
    seed: int = 0,
) -> GoalSummary:
    """Load the files one after another. Raises InputError as `load_trajectories`."""
    lengths, starts, memory, goal_memory, shares = [], 0, 0, 0, GoalShares(0, 0, 0)
    widths: dict[str, int] = {}
    for number, path in enumerate(found.train):
        data = load_trajectories(path, task, horizon=sampling.horizon, short=short)
        lengths.append(data.episode_transitions)
        starts += len(sampling.starts_of(data))
        memory = max(memory, data.nbytes)
        own = 0 if data.goal_source is data.observations else data.goal_source.nbytes
        goal_memory = max(goal_memory, own)
        if number == 0:
            draws = draw(np.random.default_rng(seed), data, rows, sampling)
            shares = shares_of(data, goal_batch(data, draws, sampling))
            widths = {
                "observations": data.observations.shape[1],
                "actions": data.actions.shape[1],
                "goals": data.goal_dim,
            }
        del data
    each = np.concatenate(lengths)
    return GoalSummary(
        task=task,
        files=found.train,
        episodes=len(each),
        shortest=int(each.min()),
        longest=int(each.max()),
        short=int((each <= sampling.horizon).sum()),
        transitions=int(each.sum()),
        starts=starts,
        widths=widths,
        memory_bytes=memory,
        goal_bytes=goal_memory,
        shares=shares,
    )
