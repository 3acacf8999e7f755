"""The action chunks of a data set, and how far a given action is from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.data.datasets import load_transitions
from qgf_ref.data.tasks import Task
from qgf_ref.data.windows import windows
from qgf_ref.errors import InputError

NEAR_STATES = 100
"""How many states count as near."""


class DataActions:
    """The action chunks of a data set and their states, ready to be searched.

    chunks (N, D), states (N, O). Raises InputError when there are none.
    """

    def __init__(self, chunks: Array, states: Array, near: int = NEAR_STATES) -> None:
        if not len(chunks):
            raise InputError("the data set has no whole action chunk to compare with")
        self.chunks = chunks.astype(np.float64)
        self.squares = (self.chunks**2).sum(axis=1)
        self.mean = states.mean(axis=0)
        # a feature that never varies says nothing: do not divide by its zero
        deviation = states.std(axis=0)
        self.scale = np.where(deviation > 0, deviation, 1)
        self.states = cKDTree((states - self.mean) / self.scale)
        self.near = min(near, len(chunks))

    def neighbours(self, obs: Array) -> Array:
        """Indices (B, near) of the chunks taken at the states nearest to obs (B, O)."""
        _, index = self.states.query((obs - self.mean) / self.scale, k=self.near)
        return np.asarray(index).reshape(len(obs), self.near)

    def distance(self, actions: Array) -> Array:
        """‖a − nearest chunk‖ (B,), over the whole data set."""
        # in 25 dimensions a product of matrices is faster than a tree, most of all far from data
        products = self.chunks @ actions.T.astype(np.float64)
        nearest = (self.squares[:, None] - 2 * products).argmin(axis=0)
        return np.asarray(np.linalg.norm(self.chunks[nearest] - actions, axis=1))

    def local_distance(self, actions: Array, neighbours: Array) -> Array:
        """‖a − nearest chunk‖ (B,), among the chunks of `neighbours`."""
        offset = self.chunks[neighbours] - actions[:, None]
        return np.asarray(np.linalg.norm(offset, axis=-1).min(axis=1))


def whole_chunks(path: Path, task: Task, checkpoint: Checkpoint) -> tuple[Array, Array]:
    """Chunks (N, D) at every H-th transition that stay in their episode, and their states (N, O).

    Raises InputError as `load_transitions`, and when the widths are not the checkpoint's.
    """
    horizon = checkpoint.flat_action_dim // checkpoint.action_dim
    data = load_transitions(path, task, horizon=horizon)
    starts = np.arange(0, len(data) - horizon + 1, horizon)
    batch = windows(data, starts, horizon, discount=1.0)  # rewards are not used
    widths = batch.action.shape[1], batch.obs.shape[1]
    if widths != (checkpoint.flat_action_dim, checkpoint.obs_dim):
        raise InputError(
            f"{path} has action chunks of {widths[0]} and observations of {widths[1]} numbers, but "
            f"{checkpoint.source} takes {checkpoint.flat_action_dim} and {checkpoint.obs_dim}: "
            "give --data the data set that it was trained on"
        )
    whole = batch.valid > 0
    return batch.action[whole], batch.obs[whole]
