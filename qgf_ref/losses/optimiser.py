"""Adam and the target network's moving average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class AdamState:
    """First and second moments, shaped like the parameters, and the number of updates made."""

    mean: MLPParams
    square: MLPParams
    count: int = 0

    @classmethod
    def zero(cls, params: MLPParams) -> AdamState:
        """The state before the first update."""
        return cls(params.map(np.zeros_like), params.map(np.zeros_like))


def adam(
    params: MLPParams,
    params_bar: MLPParams,
    state: AdamState,
    learning_rate: float = 3e-4,
    eps: float = EPS,
    eps_root: float = 0.0,
) -> tuple[MLPParams, AdamState]:
    """One update, and the new state.

    m ← β₁m + (1−β₁)g,  s ← β₂s + (1−β₂)g²,  θ ← θ − lr·(m/(1−β₁ⁿ)) / (√(s/(1−β₂ⁿ) + ε_root) + ε)
    with n counted from 1, ε = 1e-8 outside the root and ε_root = 0 inside.
    Source: optax.adam (official.md, section 3).
    """
    count = state.count + 1
    mean_scale, square_scale = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
    mean = state.mean.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, params_bar)
    square = state.square.map(lambda s, g: BETA2 * s + (1 - BETA2) * (g * g), params_bar)

    def step(theta: Array, m: Array, s: Array) -> Array:
        corrected = s * square_scale
        root = np.sqrt(corrected + eps_root if eps_root else corrected)
        return theta - learning_rate * (m * mean_scale) / (root + eps)

    return params.map(step, mean, square), AdamState(mean, square, count)


def target_update(target: MLPParams, online: MLPParams, tau: float = 0.005) -> MLPParams:
    """φ̄ ← τφ + (1 − τ)φ̄. The official code passes the critic from *before* its update."""
    return target.map(lambda t, o: tau * o + (1 - tau) * t, online)
