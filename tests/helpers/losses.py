"""A batch for losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch
from tests.conftest import states


def batch_of(ck: Any, rows: int = 12) -> tuple[Batch, dict[str, Array]]:
    rng = np.random.default_rng(3)
    obs, action = states(ck, rows)
    next_obs, _ = states(ck, rows, seed=5)
    masks = (np.arange(rows) % 5 != 0).astype(float)
    valid = (np.arange(rows) % 4 != 0).astype(float)
    batch = Batch(obs, action, next_obs, rng.standard_normal(rows), masks, valid)
    return batch, {"x0": rng.standard_normal(action.shape), "t": (np.arange(rows) % 7) / 6}
