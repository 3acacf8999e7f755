"""A training batch, and what an update needs beside batch and networks."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array


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


@dataclass(frozen=True)
class Hyperparameters:
    """What an update needs beside the networks. `horizon` is H of the bootstrap γᴴ."""

    discount: float = 0.99
    horizon: int = 1
    expectile: float = 0.9
    tau: float = 0.005
    learning_rate: float = 3e-4
