"""DQC's losses: a chunk critic, the action critic that it teaches, and their value, on logits.

All networks give logits z of q = σ(z), an estimate of E[γ^steps to the goal]; they read [s, g] as
one observation. Source: goal_conditioned.md, section 2.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.value import MLPValue
from qgf_ref.ops.logits import CLIPPED, asymmetric_bce, bce, logit_pinball, probability

Statistic = Literal["expectile", "quantile"]
"""What a network learns of its targets: of their probabilities, or of their logits."""


def reach_target(
    value: MLPValue, next_obs: Array, rewards: Array, masks: Array, discounts: Array
) -> Array:
    """y = clip(R + γᵏ·mask·σ(V(s_{i+k}, g)), 0, 1), (B,). No gradient flows into V.

    next_obs (B, O + G); rewards, masks, discounts γᵏ (B,). The clip never binds for γ ≤ 1.
    """
    next_q, _ = value.kernels(probability, forward_only(value).forward(next_obs)[0])
    return np.clip(rewards + discounts * masks * next_q, 0, 1)


def chunk_critic_loss(
    critic: MLPCritic, obs: Array, chunk: Array, target: Array
) -> tuple[float, MLPParams]:
    """L_C = mean over members and batch of bce(Q_C(s, g, a_{0:h}), y), without `valid`; ∂L/∂φ.

    obs (B, O + G), chunk (B, h·A), target y (B,). q_bar = (σ(z) − y)/(E·B).
    """
    z, cache = critic.forward(obs, chunk)
    loss, z_bar = critic.kernels(bce, z, target)
    return loss, critic.vjp_params(z_bar, cache)


def distillation_loss(
    critic: MLPCritic,
    obs: Array,
    action: Array,
    teacher: Array,
    valid: Array,
    kappa: float,
    statistic: Statistic,
) -> tuple[float, MLPParams]:
    """L_P = mean over members and batch of valid·w·d(z_P, y), and ∂L/∂φ.

    obs (B, O + G), action (B, h_a·A), valid (B,); teacher: logits of y, (E, B), held: member i
    teaches member i (trap T12), or (B,) for all. d is `asymmetric_bce` (expectile) or
    `logit_pinball` (quantile), whose target is clipped to logits of 1e-5 and 1 − 1e-5.
    """
    z, cache = critic.forward(obs, action)
    if statistic == "expectile":
        y, _ = critic.kernels(probability, teacher)
        loss, z_bar = critic.kernels(asymmetric_bce, z, y, valid, kappa)
    else:
        loss, z_bar = critic.kernels(logit_pinball, z, teacher, valid, kappa, CLIPPED)
    return loss, critic.vjp_params(z_bar, cache)


def backup_loss(
    value: MLPValue, obs: Array, logit: Array, valid: Array, kappa: float, statistic: Statistic
) -> tuple[float, MLPParams]:
    """L_V = mean of valid·w·b(z_V, q), and ∂L/∂ψ. The logit of q (B,) is held, and not clipped.

    obs (B, O + G), valid (B,). q is the reduced probability of the *target* action critic (trap
    T13), `qgf_ref.ops.logits.reduced_logit`: finite where the official float32 has ∞ (trap T9).
    """
    z, cache = value.forward(obs)
    if statistic == "quantile":
        loss, z_bar = value.kernels(logit_pinball, z, logit, valid, kappa)
    else:
        q, _ = value.kernels(probability, logit)
        loss, z_bar = value.kernels(asymmetric_bce, z, q, valid, kappa)
    return loss, value.vjp_params(z_bar, cache)
