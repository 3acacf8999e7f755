"""The training mistakes that are made after the losses: order, Adam, target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.mlp import MLPParams


def _without_bias_correction(
    params: MLPParams, bar: MLPParams, state: AdamState, rate: float, **kernels: Any
) -> tuple[MLPParams, AdamState]:
    # after so many updates both corrections are exactly 1
    return adam(params, bar, replace(state, count=10**9), rate, **kernels)


def _clipped(params: MLPParams, bar: MLPParams) -> MLPParams:
    norm = float(np.sqrt(sum(np.vdot(a, a) for a in bar.arrays())))
    return bar.map(lambda a: a * min(1.0, 1.0 / norm)) if norm else bar


UPDATE_MISTAKES: tuple[TrainingMistake, ...] = (
    TrainingMistake(
        "critic-after-value-step",
        "The value steps first and the critic sees the result; official: all see the old networks.",
        "critic",
        {"in_turn": ("policy", "value", "critic")},
    ),
    TrainingMistake(
        "value-after-target-update",
        "Critic and target step before the value loss reads them; official: it reads the old ones.",
        "value",
        {"in_turn": ("policy", "critic", "value")},
    ),
    TrainingMistake(
        "adam-epsilon-inside-root",
        "Adam divides by √(s + ε); official: √s + ε with ε = 1e-8.",
        "params",
        {"adam": partial(adam, eps=0.0, eps_root=1e-8)},
    ),
    TrainingMistake(
        "adam-epsilon-1e-7",
        "Adam's ε is 1e-7; official: 1e-8.",
        "params",
        {"adam": partial(adam, eps=1e-7)},
    ),
    TrainingMistake(
        "adam-without-bias-correction",
        "Adam's moments are not corrected; official: divided by 1 − βⁿ, n = 1 at the first update.",
        "params",
        {"adam": _without_bias_correction},
    ),
    TrainingMistake(
        "adam-l2",
        "An L2 penalty of 0.01 is added to the gradients; official: no weight decay.",
        "params",
        {"gradient": lambda params, bar: bar.map(lambda g, p: g + 0.01 * p, params)},
    ),
    TrainingMistake(
        "adamw-weight-decay",
        "AdamW's default decay, 0.01 of the learning rate, shrinks the parameters; official: none.",
        "params",
        {"decay": 0.01},
    ),
    TrainingMistake(
        "gradient-clipped",
        "Each network's gradient is clipped to norm 1; official: no clipping.",
        "params",
        {"gradient": _clipped},
    ),
    TrainingMistake(
        "learning-rate-1e-3",
        "Adam runs with a learning rate of 1e-3, a common default; official: 3e-4.",
        "params",
        {"learning_rate": lambda rate: 1e-3},
    ),
    TrainingMistake(
        "target-update-after-critic-step",
        "The target moves towards the critic from after its step; official: from before it.",
        "params/target_critic",
        {"target": lambda old, before, after, tau, kernels: target_update(old, after, tau)},
    ),
    TrainingMistake(
        "tau-reversed",
        "The target takes 1 − τ of the critic; official: τ of it (τφ + (1 − τ)φ̄).",
        "params/target_critic",
        {"target": lambda old, before, after, tau, kernels: target_update(old, before, 1 - tau)},
    ),
    TrainingMistake(
        "target-hard-copy",
        "The target is a copy of the critic; official: a moving average of it.",
        "params/target_critic",
        {"target": lambda old, before, after, tau, kernels: after},
    ),
    TrainingMistake(
        "target-never-updated",
        "The target critic stays as it was; official: it moves at every update.",
        "params/target_critic",
        {"target": lambda old, before, after, tau, kernels: old},
    ),
)
"""In the order of the quantities that they change first."""
