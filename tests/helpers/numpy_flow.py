"""An adapted flow of plain NumPy functions, in chunks (B, 3, 2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow

ALL = ("vjp", "jvp")


def wave(obs: Array, x: Array, time: Array) -> Array:
    """A field in chunks (B, H, A), each row its own."""
    shift = obs.sum(axis=1)[:, None, None] + time[:, None, None]
    return np.sin(x + shift) - 0.3 * x[:, ::-1]


def bowl(obs: Array, x: Array) -> Array:
    """Two members (2, B)."""
    q = -((x - 0.1 * obs.sum(axis=1)[:, None, None]) ** 2).sum(axis=(1, 2))
    return np.stack([q, q - 0.2 * np.sin(x[:, 0, 0])])


def flow(field: Any = wave, critic: Any = bowl, **settings: Any) -> GuidedFlow:
    usual: dict[str, Any] = {"action_shape": (3, 2), "obs_dim": 2, "differences": ALL}
    usual = {k: v for k, v in (usual | settings).items() if v is not None}
    return adapters.functions(field, critic, **usual)


def inputs(rows: int = 4, width: int = 6) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 2)), rng.standard_normal((rows, width))
