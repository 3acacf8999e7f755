"""Small data sets in OGBench's format, for tests: random walks in pointmaze-medium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TASK = "pointmaze-medium-navigate-singletask-task1-v0"
DATASET = "pointmaze-medium-navigate-v0"
GOALS = "pointmaze-medium-navigate-oraclerep-v0"
SMALL_DQC = [
    "--agent", "dqc", "--hidden", "8", "8", "--batch", "16", "--log-every", "2",
    "--backup-horizon", "10", "--policy-chunk-size", "2", "--horizon-length", "2",
]  # fmt: skip
"""Flags of a training on such a data set that takes a second."""


def episodes(
    count: int = 4, steps: int = 21, seed: int = 0, dtype: str = "float32"
) -> dict[str, Any]:
    """Arrays of `count` episodes of `steps` states each."""
    rng = np.random.default_rng(seed)
    start = np.repeat(rng.uniform(0, 20, (count, 1, 2)), steps, axis=1)
    walk = start + np.cumsum(rng.normal(0, 0.5, (count, steps, 2)), axis=1)
    # one episode passes over task 1's goal, so that there are successes
    walk[0, steps // 2 : steps // 2 + 4] = (20.0, 20.0)
    obs = walk.reshape(-1, 2).astype(dtype)
    terminals = np.zeros((count, steps), dtype=bool)
    terminals[:, -1] = True
    return {
        "observations": obs,
        "actions": rng.uniform(-1, 1, obs.shape).astype(dtype),
        "terminals": terminals.ravel(),
        "qpos": obs,
        "qvel": np.zeros_like(obs),
    }


def write_dataset(directory: Path, *, seed: int = 0, count: int = 4, steps: int = 21) -> Path:
    """DATASET.npz and its -val.npz in `directory`."""
    path = directory / f"{DATASET}.npz"
    np.savez(path, **episodes(count, steps, seed))
    np.savez(directory / f"{DATASET}-val.npz", **episodes(2, steps, seed + 1))
    return path
