"""FQL's loss of its one-step policy. Source: baselines.md, section 5."""

from __future__ import annotations

from qgf_ref.arrays import Array
from qgf_ref.losses.actor import q_at, q_at_vjp
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.one_step import OneStepPolicy
from qgf_ref.ops.learning import squared_error
from qgf_ref.ops.structure import axpy


def one_step_loss(
    policy: OneStepPolicy,
    critic: MLPCritic,
    obs: Array,
    noise: Array,
    flow_action: Array,
    valid: Array,
    alpha: float,
    scale: float = 1.0,
) -> tuple[float, MLPParams]:
    """L = α·L_D + ν·L_π, and ∂L/∂μ's parameters.

    L_D = mean_b m_b·mean_d (μ − a*)², μ = μ(s, z) unclipped, a* = flow_action (B, D) the clipped
    endpoint of the cloned flow from the same noise z (B, D), a constant;
    L_π = −mean_b m_b·q_b, q = mean_j Q_j(s, c(μ)) of the *online* critic, its members always
    averaged. ν = scale is a constant: 1, or with `normalize_q_loss` 1/mean_b |m_b q_b|.
    μ_bar = 2αm(μ − a*)/(B·D) − νm·c'(μ)·∇_a q/B. obs (B, O), valid m (B,).
    α multiplies a mean over D: the α of the paper's squared norm is α/D.
    """
    action, cache = policy.forward(obs, noise)
    distilled, distilled_bar = policy.kernels(squared_error, action, flow_action, valid[:, None])
    q, query = q_at(critic, obs, action, "mean")
    q_bar = valid * (-scale / len(valid))
    action_bar = policy.kernels(axpy, alpha, distilled_bar, q_at_vjp(critic, q_bar, query))
    return alpha * distilled - scale * (valid * q).mean(), policy.vjp_params(action_bar, cache)
