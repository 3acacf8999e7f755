"""Estimators at a state, and how far two answers are apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref import (
    DenoisingStep,
    GuidedFlow,
)
from qgf_ref.arrays import Array
from qgf_ref.denoising import denoising_step
from tests.conftest import states

WEIGHT = 0.3


def at(ck: Any, k: int, rows: int = 5, flow: GuidedFlow | None = None) -> DenoisingStep:
    obs, action = states(ck, rows)
    return denoising_step(flow or ck.flow, obs, action, k, WEIGHT)


def distance(x: Array, y: Array | None) -> float:
    assert y is not None
    norm = float(np.linalg.norm(y))
    return float(np.linalg.norm(x - y)) / (norm or 1.0)
