"""The losses of DAC's and QSM's noise predictor. Source: baselines.md, section 7."""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.diffusion import vp_schedule
from qgf_ref.losses.actor import q_at, q_at_vjp
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.noise import NoisePredictor
from qgf_ref.ops.learning import squared_error
from qgf_ref.ops.lookup import lookup
from qgf_ref.ops.structure import axpy, scaled


def noise_loss(
    net: NoisePredictor,
    critic: MLPCritic,
    obs: Array,
    action: Array,
    step: Array,
    eps: Array,
    valid: Array,
    diffusion_steps: int,
    alpha: float,
    inv_temp: float | None,
) -> tuple[float, MLPParams]:
    """L = L_own + α·L_BC, and ∂L/∂θ, at x = √ᾱ_k·a + ς·eps, ς = √(1 − ᾱ_k), e = ε(s, x, k).

    L_BC = mean_b m_b·mean_d (e − eps)²;  g = ∇_x mean_j Q_j(s, x), at the noisy x, *unclipped*
    QSM (κ = inv_temp): L_own = mean_b m_b·mean_d (e + κg)²
    DAC (inv_temp None): L_own = mean_{b,d} m_b·ς·g·e, unbounded below without L_BC
    e_bar = m/(B·D)·[2(e + κg) or ς·g] + 2αm(e − eps)/(B·D); no gradient flows into g.
    obs (B, O), action and eps (B, D), step k (B,) in 1 … T, valid m (B,).
    """
    kernels, dtype = net.kernels, action.dtype
    hats = vp_schedule(diffusion_steps).alpha_hats[:, None]
    hat = kernels(lookup, hats, step, action)[0]
    kept, spread = (np.sqrt(share).astype(dtype) for share in (hat, 1 - hat))
    x = kernels(axpy, spread, eps, kernels(scaled, kept, action))
    predicted, cache = net.forward(obs, x, step)
    q, query = q_at(critic, obs, x, "mean", clipped=False)
    g, weight = q_at_vjp(critic, np.ones_like(q), query), valid[:, None]
    if inv_temp is None:
        own_bar = weight * spread * g * dtype.type(1 / g.size)
        own = (own_bar * predicted).sum()
    else:
        own, own_bar = kernels(squared_error, predicted, kernels(scaled, -inv_temp, g), weight)
    cloning, cloning_bar = kernels(squared_error, predicted, eps, weight)
    predicted_bar = kernels(axpy, alpha, cloning_bar, own_bar)
    return own + alpha * cloning, net.vjp_params(predicted_bar, cache)
