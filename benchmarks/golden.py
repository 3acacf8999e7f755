"""The golden files as this package's objects (see shared/golden/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


def golden_batch(z: dict[str, Array], ck: Any, dtype: str, rounded: bool = True) -> Batch:
    """The golden batch, last window element; rounded to float32 first, as the official jit does."""
    actions = z["batch/actions"]
    chunked = ck.options.action_chunking
    batch = Batch(
        z["batch/observations"],
        actions.reshape(len(actions), -1) if chunked else actions[:, 0],
        z["batch/next_observations"][:, -1],
        z["batch/rewards"][:, -1],
        z["batch/masks"][:, -1],
        z["batch/valid"][:, -1],
    )
    return (batch.astype("float32") if rounded else batch).astype(dtype)


def official_times(stored: Array, T: int, dtype: str) -> Array:
    """k/T in float32. For T = 7 the stored times are fl(k)·fl(1/T), one ulp off; the official
    loss is reproduced ten times better (6e-7 against 7e-6) by fl(k/T).
    """
    return (np.rint(stored * T).astype(np.float32) / np.float32(T)).astype(dtype)


def nested(z: dict[str, Array], prefix: str) -> dict[str, Any]:
    """The arrays whose names start with `prefix`, as the nested dict that the names describe."""
    tree: dict[str, Any] = {}
    for key, array in z.items():
        if key.startswith(prefix):
            *path, leaf = key.removeprefix(prefix).split("/")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = array
    return tree
