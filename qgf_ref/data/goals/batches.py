"""Relabelled batches: what a goal makes of a window's reward, mask and bootstrap state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.goals.sampling import BatchDraws, GoalSampling, draw, goal_rows
from qgf_ref.data.goals.trajectories import Trajectories
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import GoalBatch


class GoalLabels(NamedTuple):
    """What follows from rows and goal rows, (B,) each: next row, steps k, reward, mask."""

    next_rows: Array
    steps: Array
    rewards: Array
    masks: Array


def one_step(rows: Array, goals: Array, last: int, negative: bool = False) -> GoalLabels:
    """Labels of one step: success where the goal is the state itself, by equality of rows.

    reward = success, or success − 1 if `negative`; mask = 1 − success; next row i + 1, no later
    than `last`, the data set's last row. Source: goal_conditioned.md, section 1.
    """
    success = (rows == goals).astype(np.float64)
    rewards = success - (1.0 if negative else 0.0)
    return GoalLabels(np.minimum(rows + 1, last), np.ones_like(rows), rewards, 1 - success)


def h_step(
    rows: Array, goals: Array, finals: Array, horizon: int, discount: float, negative: bool = False
) -> GoalLabels:
    """Labels of a backup over k ≤ h steps, in float64.

    k = min(h, f − i); if 0 ≤ goal − i < k, k = goal − i. success = k < h; mask = 1 − success;
    reward = γᵏ·success, or −(1 − γᵏ)/(1 − γ) if `negative`; next row i + k. A goal exactly h ahead
    is bootstrapped, and where the episode ends within the window that counts as success (T4).
    Success is equality of rows: a state with the same representation is not the goal (T3).
    Source: goal_conditioned.md, section 1.
    """
    ahead = goals - rows
    steps = np.minimum(horizon, finals - rows)
    steps = np.where((ahead >= 0) & (ahead < steps), ahead, steps)
    success = (steps < horizon).astype(np.float64)
    power = discount**steps
    rewards = -(1 - power) / (1 - discount) if negative else power * success
    return GoalLabels(rows + steps, steps, rewards, 1 - success)


def chunks(actions: Array, rows: Array, finals: Array, horizon: int) -> Array:
    """The actions a_{min(i + j, f)}, j < horizon, flat: (B, h·A) of (N, A), C-contiguous."""
    if (rows + (horizon - 1) <= finals).all():
        # consecutive rows are one stretch of memory: a window is an item of that size
        size, stride = horizon * actions.shape[1] * actions.itemsize, actions.strides[0]
        count = len(actions) - horizon + 1
        whole = np.ndarray((count,), f"V{size}", buffer=actions, strides=(stride,))
        return whole[rows].view(actions.dtype).reshape(len(rows), -1)
    index = np.minimum(rows[:, None] + np.arange(horizon), finals[:, None])
    return actions.take(index, axis=0).reshape(len(rows), -1)


def goal_batch(
    data: Trajectories, draws: BatchDraws, sampling: GoalSampling, rows: Array | None = None
) -> GoalBatch:
    """The batch that recorded or fresh draws choose: observations float32, rewards float64.

    rows  (B,) the states themselves, by hand, instead of the draws' start positions
    Raises InputError when draws are missing, or lie outside of the data.
    """
    if not isinstance(data, Trajectories):
        raise InputError(
            f"goals need compact trajectories (load_trajectories); got {type(data).__name__}, "
            "whose rewards are those of one task"
        )
    starts = sampling.starts_of(data)
    _require_within(draws, len(starts), rows, len(data.observations))
    if rows is None:
        rows, finals = starts.at(draws.start)
    else:
        finals = data.finals(rows)
    goals = goal_rows(sampling.value_goals, draws.value, rows, finals, starts)
    if sampling.relabelling == "one-step":
        labels = one_step(rows, goals, len(data.observations) - 1, sampling.negative)
    else:
        horizon, discount = sampling.horizon, sampling.discount
        labels = h_step(rows, goals, finals, horizon, discount, sampling.negative)
    G, O = data.goal_dim, data.observations.shape[1]
    policy_width = 0 if sampling.policy_goals is None else G
    width = sampling.horizon * data.actions.shape[1]
    obs, next_obs, action, goal, policy_goal = _block(len(rows), (O, O, width, G, policy_width))
    data.observations.take(rows, axis=0, out=obs, mode="clip")
    data.observations.take(labels.next_rows, axis=0, out=next_obs, mode="clip")
    action[...] = chunks(data.actions, rows, finals, sampling.horizon)
    goal[...] = data.goals(goals)
    policy_goal_row = np.full_like(rows, -1)
    if sampling.policy_goals is not None:
        if draws.policy is None:
            raise InputError("the policy has goals, and these draws have none for it")
        policy_goal_row = goal_rows(sampling.policy_goals, draws.policy, rows, finals, starts)
        policy_goal[...] = data.goals(policy_goal_row)
    return GoalBatch(
        obs=obs,
        action=action,
        goal=goal,
        policy_goal=policy_goal,
        next_obs=next_obs,
        rewards=labels.rewards,
        masks=labels.masks,
        steps=labels.steps,
        valid=np.arange(sampling.horizon) <= (finals - rows)[:, None],
        row=rows,
        goal_row=goals,
        policy_goal_row=policy_goal_row,
    )


def sample_goal_batch(
    rng: np.random.Generator, data: Trajectories, rows: int, sampling: GoalSampling
) -> GoalBatch:
    """A batch of `rows` in training: fresh draws, and every number but the integers in float32."""
    return goal_batch(data, draw(rng, data, rows, sampling), sampling).astype(np.float32)


def _block(rows: int, widths: Sequence[int]) -> list[Array]:
    """Uninitialised arrays (rows, width) in float32, in one block of memory.

    Of several arrays of a megabyte or so, the allocator hands some back to the system whenever a
    batch is dropped, and fetching their pages again took half of a batch's time.
    """
    block = np.empty(rows * sum(widths), np.float32)
    ends = rows * np.cumsum(widths)
    return [
        part.reshape(rows, width)
        for part, width in zip(np.split(block, ends[:-1]), widths, strict=True)
    ]


def _require_within(draws: BatchDraws, starts: int, rows: Array | None, states: int) -> None:
    lengths = {name: len(array) for name, array in draws.arrays().items()}
    if rows is not None:
        lengths |= {"start": len(rows)}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the draws of a batch must be of one length, got {lengths}")
    chosen = [("random goals", draws.value.random, starts)]
    if draws.policy is not None:
        chosen.append(("the policy's random goals", draws.policy.random, starts))
    chosen.append(("starts", draws.start, starts) if rows is None else ("rows", rows, states))
    for what, positions, count in chosen:
        if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < count:
            raise InputError(
                f"{what} must lie in 0 … {count - 1}, got {positions.min()} … {positions.max()}: "
                "were they drawn for another data set or another horizon?"
            )
