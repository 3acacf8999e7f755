"""Clipping gradients of several networks by their joint norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.parameter_sets import apart, joined
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.learning import all_scaled, sum_of_squares


def clipped_by_norm(
    bars: Mapping[str, MLPParams],
    groups: Sequence[Sequence[str]],
    most: float,
    kernels: Kernels = reference_kernels,
) -> dict[str, MLPParams]:
    """The gradients, those of each group times one factor: 1 if ‖g‖ < c, else c/‖g‖.

    ‖g‖ is the Euclidean norm over every array of the group's parts, ensemble members together; c
    `most`, without an epsilon. Parts of a group that have no gradient are passed over.
    Source: baselines.md, section 2 (optax.clip_by_global_norm).
    """
    clipped = dict(bars)
    for group in groups:
        present = [part for part in group if part in bars]
        norm = joint_norm([bars[part] for part in present], kernels)
        if present and norm >= most:
            whole = joined([bars[part] for part in present])
            smaller = whole.replace(iter(kernels(all_scaled, most / norm, *whole.arrays())))
            clipped |= zip(present, apart(smaller), strict=True)
    return clipped


def joint_norm(bars: Iterable[MLPParams], kernels: Kernels = reference_kernels) -> float:
    """The Euclidean norm over every array, summed in float64."""
    return math.sqrt(kernels(sum_of_squares, *(a for bar in bars for a in bar.arrays())))
