"""EDP's loss of its flow policy. Source: baselines.md, section 4."""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.losses.actor import q_at, q_at_vjp
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.learning import path_point, squared_error
from qgf_ref.ops.structure import axpy, scaled


def edp_loss(
    field: MLPVelocity,
    critic: MLPCritic,
    obs: Array,
    x0: Array,
    x1: Array,
    t: Array,
    bc_weight: float,
) -> tuple[float, MLPParams]:
    """L = −mean_b q + λ·mean_{b,d} (v − (x1 − x0))², and ∂L/∂θ.

    q = agg_j Q_j(s, c(u)) of the given (target) critic, aggregated as it says, at the one-step
    estimate u = x_t + (1 − t)v, v = v(s, x_t, t). Rows that cross an episode's end count in both
    terms, as in the official code.
    v_bar = −(1 − t)·c'(u)·∇_a q/B + 2λ(v − (x1 − x0))/(B·D).
    obs (B, O), x0 noise and x1 dataset action (B, D), t (B,), λ bc_weight.
    """
    kernels = field.kernels
    point, target = kernels(path_point, x0, x1, t)
    velocity, cache = field.forward(obs, point, t)
    cloning, cloning_bar = kernels(squared_error, velocity, target)
    left = (1 - t)[:, None]
    q, query = q_at(critic, obs, kernels(axpy, left, velocity, point), critic.aggregation)
    estimate_bar = q_at_vjp(critic, np.full_like(t, -1 / len(t)), query)
    velocity_bar = kernels(axpy, bc_weight, cloning_bar, kernels(scaled, left, estimate_bar))
    return bc_weight * cloning - q.mean(), field.vjp_params(velocity_bar, cache)
