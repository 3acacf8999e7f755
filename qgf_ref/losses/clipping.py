"""Clipping gradients of several networks by their joint norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qgf_ref.nets.mlp import MLPParams


def clipped_by_norm(
    bars: Mapping[str, MLPParams], groups: Sequence[Sequence[str]], most: float
) -> dict[str, MLPParams]:
    """The gradients, those of each group times one factor: 1 if ‖g‖ < c, else c/‖g‖.

    ‖g‖ is the Euclidean norm over every array of the group's parts, ensemble members together; c
    `most`, without an epsilon. Parts of a group that have no gradient are passed over.
    Source: baselines.md, section 2 (optax.clip_by_global_norm).
    """
    clipped = dict(bars)
    for group in groups:
        present = [part for part in group if part in bars]
        norm = joint_norm(bars[part] for part in present)
        if norm >= most:
            scale = most / norm
            clipped |= {part: bars[part].map(lambda a, s=scale: a * s) for part in present}
    return clipped


def joint_norm(bars: Iterable[MLPParams]) -> float:
    """The Euclidean norm over every array, summed in float64."""
    leaves = (a for bar in bars for a in bar.arrays())
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in leaves))
