"""The training mistakes that are made after the losses: order, Adam, target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qgf_ref.crosscheck.update.recipe import Mistake
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.mlp import MLPParams


def _without_bias_correction(
    params: MLPParams, bar: MLPParams, state: AdamState, rate: float
) -> tuple[MLPParams, AdamState]:
    # after so many updates both corrections are exactly 1
    return adam(params, bar, replace(state, count=10**9), rate)


def _clipped(params: MLPParams, bar: MLPParams) -> MLPParams:
    norm = float(np.sqrt(sum(np.vdot(a, a) for a in bar.arrays())))
    return bar.map(lambda a: a * min(1.0, 1.0 / norm)) if norm else bar


UPDATE_MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "critic-after-value-step",
        "The value steps first and the critic sees the result; official: all see the old networks.",
        "critic",
        {"order": ("policy", "value", "critic", "target_critic"), "sequential": True},
    ),
    Mistake(
        "value-after-target-update",
        "Critic and target step before the value loss reads them; official: it reads the old ones.",
        "value",
        {"order": ("policy", "critic", "target_critic", "value"), "sequential": True},
    ),
    Mistake(
        "adam-epsilon-inside-root",
        "Adam divides by √(s + ε); official: √s + ε with ε = 1e-8.",
        "params",
        {"adam": lambda p, g, s, rate: adam(p, g, s, rate, eps=0.0, eps_root=1e-8)},
    ),
    Mistake(
        "adam-epsilon-1e-7",
        "Adam's ε is 1e-7; official: 1e-8.",
        "params",
        {"adam": lambda p, g, s, rate: adam(p, g, s, rate, eps=1e-7)},
    ),
    Mistake(
        "adam-without-bias-correction",
        "Adam's moments are not corrected; official: divided by 1 − βⁿ, n = 1 at the first update.",
        "params",
        {"adam": _without_bias_correction},
    ),
    Mistake(
        "adam-l2",
        "An L2 penalty of 0.01 is added to the gradients; official: no weight decay.",
        "params",
        {"gradient": lambda params, bar: bar.map(lambda g, p: g + 0.01 * p, params)},
    ),
    Mistake(
        "adamw-weight-decay",
        "AdamW's default decay, 0.01 of the learning rate, shrinks the parameters; official: none.",
        "params",
        {"decay": 0.01},
    ),
    Mistake(
        "gradient-clipped",
        "Each network's gradient is clipped to norm 1; official: no clipping.",
        "params",
        {"gradient": _clipped},
    ),
    Mistake(
        "learning-rate-1e-3",
        "Adam runs with a learning rate of 1e-3, a common default; official: 3e-4.",
        "params",
        {"learning_rate": lambda rate: 1e-3},
    ),
    Mistake(
        "target-update-after-critic-step",
        "The target moves towards the critic from after its step; official: from before it.",
        "params/target_critic",
        {"target": lambda target, before, after, tau: target_update(target, after, tau)},
    ),
    Mistake(
        "tau-reversed",
        "The target takes 1 − τ of the critic; official: τ of it (τφ + (1 − τ)φ̄).",
        "params/target_critic",
        {"target": lambda target, before, after, tau: target_update(target, before, 1 - tau)},
    ),
    Mistake(
        "target-hard-copy",
        "The target is a copy of the critic; official: a moving average of it.",
        "params/target_critic",
        {"target": lambda target, before, after, tau: after},
    ),
    Mistake(
        "target-never-updated",
        "The target critic stays as it was; official: it moves at every update.",
        "params/target_critic",
        {"target": lambda target, before, after, tau: target},
    ),
)
"""In the order of the quantities that they change first."""
