"""Adam and the target network's moving average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.learning import BETA1 as BETA1
from qgf_ref.ops.learning import BETA2 as BETA2
from qgf_ref.ops.learning import EPS, adam_step, moving_average


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
    kernels: Kernels = reference_kernels,
) -> tuple[MLPParams, AdamState]:
    """One update, and the new state. The equations: `qgf_ref.ops.learning.adam_step`.

    n is counted from 1, ε = 1e-8 outside the root and ε_root = 0 inside.
    Source: optax.adam (official.md, section 3).
    """
    count = state.count + 1
    sets = (params, params_bar, state.mean, state.square)
    at_once = getattr(kernels, "adam_steps", None)
    stepped = None if at_once is None else at_once(*sets, count, learning_rate, eps, eps_root)
    if stepped is None:
        params_bars, means, squares = (each.arrays() for each in sets[1:])
        leaves = zip(params.arrays(), params_bars, means, squares, strict=True)
        each_stepped = [
            kernels(adam_step, *leaf, count, learning_rate, eps, eps_root) for leaf in leaves
        ]
        stepped = [params.replace(part) for part in zip(*each_stepped, strict=True)]
    theta, mean, square = stepped
    return theta, AdamState(mean, square, count)


def steps_at_once(kernels: Kernels) -> bool:
    """Whether the kernels want the arrays of all networks together, as a GPU's launches do
    (`qgf_ref.nets.parameter_sets.joined`), rather than each network's once its gradient is there.
    """
    return bool(getattr(kernels, "steps_at_once", False))


def target_update(
    target: MLPParams,
    online: MLPParams,
    tau: float = 0.005,
    kernels: Kernels = reference_kernels,
) -> MLPParams:
    """φ̄ ← τφ + (1 − τ)φ̄. The official code passes the critic from *before* its update."""
    at_once = getattr(kernels, "moving_averages", None)
    if at_once is not None:
        moved: MLPParams | None = at_once(target, online, tau)
        if moved is not None:
            return moved
    return target.map(lambda t, o: kernels(moving_average, t, o, tau), online)
