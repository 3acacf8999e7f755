"""Chunk windows of consecutive transitions, with the official code's semantics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import Batch

ACTION_CLIP_EPS = 1e-5
"""Dataset actions are clipped to ±(1 − eps). Source: official.md, section 2."""


@dataclass(frozen=True)
class Transitions:
    """A data set of N transitions in time order, episodes one after the other.

    observations, next_observations (N, O); actions (N, A) in [−1, 1]; rewards, masks (0 where the
    task ended) and terminals (1 on the last transition of an episode), all (N,).
    """

    observations: Array
    next_observations: Array
    actions: Array
    rewards: Array
    masks: Array
    terminals: Array

    def __len__(self) -> int:
        return len(self.actions)


def sample_starts(rng: np.random.Generator, data: Transitions, rows: int, horizon: int) -> Array:
    """Window starts (rows,), uniform on 0 … N − H with replacement; windows may cross episodes.

    Raises InputError when the data set is shorter than one window.
    """
    if len(data) < horizon:
        raise InputError(f"a window of {horizon} transitions needs more than the {len(data)} given")
    return rng.integers(0, len(data) - horizon + 1, size=rows)


def windows(data: Transitions, starts: Array, horizon: int, discount: float) -> Batch:
    """The windows of `horizon` transitions that begin at `starts` (B,), as one batch.

    valid_i = no terminal before i; reward = Σ_i γⁱ r_i valid_i; mask = min of the masks while
    valid; next_obs is the one of the last valid transition; actions are raw, also beyond an
    episode's end, and flattened row by row (D = H·A, index h·A + j).
    Only the window's last element enters the losses. Source: official.md, section 2.
    """
    index = starts[:, None] + np.arange(horizon)
    ended = np.cumsum(data.terminals[index] > 0, axis=1) > 0
    valid = np.ones(index.shape, dtype=bool)
    valid[:, 1:] = ~ended[:, :-1]
    discounts = discount ** np.arange(horizon)
    last = starts + valid.sum(axis=1) - 1
    return Batch(
        obs=data.observations[starts],
        action=data.actions[index].reshape(len(starts), -1),
        next_obs=data.next_observations[last],
        rewards=(discounts * data.rewards[index] * valid).sum(axis=1),
        masks=np.where(valid, data.masks[index], 1).min(axis=1),
        valid=valid[:, -1].astype(data.rewards.dtype),
    )
