"""What actors share that are trained with the critic: Q of an action and its gradient, flows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.euler import integrate
from qgf_ref.flow.path import time_grid
from qgf_ref.losses.flow_matching import velocity_regression
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.velocity import LearnedField, MLPVelocity
from qgf_ref.ops.clip import ClipCache, clip, clip_vjp
from qgf_ref.ops.ensemble import EnsembleCache, ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.ops.learning import path_point


class QueryCache(NamedTuple):
    """What `q_at` saves; clip: None where the action is taken as it is."""

    critic: Any
    reduced: EnsembleCache
    clip: ClipCache | None


def q_at(
    critic: MLPCritic, obs: Array, action: Array, aggregation: str, clipped: bool = True
) -> tuple[Array, QueryCache]:
    """q (B,) = agg_j Q_j(s, c(a)), c(a) = clip(a, −1, 1) or, if not clipped, a itself.

    obs (B, O), action (B, D). vjp: `q_at_vjp`. Source: baselines.md, sections 3 to 7.
    """
    within = None
    if clipped:
        action, within = critic.kernels(clip, action)
    members, cache = critic.forward(obs, action)
    q, reduced = critic.kernels(ensemble_reduce, members, aggregation)
    return q, QueryCache(cache, reduced, within)


def q_at_vjp(critic: MLPCritic, q_bar: Array, cache: QueryCache) -> Array:
    """action_bar (B, D) = c'(a)·Σ_j ω_j ∂Q_j/∂a·q_bar: one critic vjp. q_bar (B,)."""
    members_bar = critic.kernels(ensemble_reduce_vjp, q_bar, cache.reduced)
    action_bar = critic.vjp(members_bar, cache.critic)
    return action_bar if cache.clip is None else critic.kernels(clip_vjp, action_bar, cache.clip)


def endpoint(field: MLPVelocity, obs: Array, noise: Array, denoise_steps: int) -> Array:
    """ODE(a_0), (B, D): T Euler steps from noise (B, D), not clipped; nothing is saved.

    obs (B, O). Times are those that the field's embedding precision rounds to.
    """
    times = time_grid(denoise_steps, field.embedding)
    action, alone = noise, forward_only(field)
    for moved in integrate(
        lambda k, time, a: alone.forward(obs, a, time)[0], noise, times, kernels=field.kernels
    ):
        action = moved
    return action


def weighted_flow_matching(
    field: LearnedField, obs: Array, x0: Array, x1: Array, t: Array, valid: Array
) -> tuple[float, MLPParams]:
    """L_F = mean_b m_b·mean_d (v(s, x_t, t) − (x1 − x0))², and ∂L_F/∂θ.

    `flow_matching` with invalid rows left out of the sum and counted in the mean: valid m (B,).
    v_bar = 2m(v − (x1 − x0))/(B·D). Source: baselines.md, sections 5 and 6.
    """
    point, target = field.kernels(path_point, x0, x1, t)
    return velocity_regression(field, obs, point, target, t, valid[:, None])


def pessimistic_q(critic: MLPCritic, obs: Array, action: Array, rho: float) -> Array:
    """mean_j Q_j − ρ·std_j Q_j (B,), the population's deviation: what a critic bootstraps from.

    obs (B, O), action (B, D); nothing is differentiated. Source: baselines.md, section 3.
    """
    q, _ = forward_only(critic).forward(obs, action)
    return q.mean(axis=0) - rho * q.std(axis=0) if rho else q.mean(axis=0)


def best_action(critic: MLPCritic, obs: Array, candidates: Array) -> Array:
    """Of each row's candidates (B, n, D) the first of highest mean_j Q_j(s, ·), (B, D)."""
    B, n, D = candidates.shape
    if n == 1:
        return candidates[:, 0]
    alone = forward_only(critic)
    q, _ = alone.forward(np.repeat(obs, n, axis=0), candidates.reshape(B * n, D))
    best = q.real.mean(axis=0).reshape(B, n).argmax(axis=1)
    return np.take_along_axis(candidates, best[:, None, None], axis=1)[:, 0]
