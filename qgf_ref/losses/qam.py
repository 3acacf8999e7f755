"""QAM's adjoint matching: a simulated path, its lean adjoint, and the loss along it.

σ_i = √(2(1 − t_i + h)/(t_i + h)) = √(2(T − i + 1)/(i + 1)), h = 1/T, t_i = i/T, i = 0 … T − 1.
Source: baselines.md, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.losses.actor import q_at, q_at_vjp
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.learning import squared_error
from qgf_ref.ops.structure import axpy, per_row, scaled, zeros


class AdjointPath(NamedTuple):
    """What the loss holds fixed, each (T, B, D): x_i, ṽ(s, x_i, t_i) of the base flow, and g_i."""

    points: Array
    base: Array
    adjoint: Array


def sigma(i: int, T: int) -> float:
    """σ_i of the memoryless noise schedule; with the +h, so that σ_0 is finite."""
    return math.sqrt(2 * (T - i + 1) / (i + 1))


Schedule = Callable[[int, int], float]
"""(i, T) → the noise's size at step i."""


def simulated(
    fast: MLPVelocity,
    base: MLPVelocity,
    obs: Array,
    start: Array,
    noise: Array,
    schedule: Schedule = sigma,
) -> tuple[Array, Array, Array]:
    """(x_0 … x_{T−1}), (ṽ(s, x_i, t_i)), each (T, B, D), and x_T (B, D): nothing is learned here.

    x_{i+1} = x_i·i/(i+1) + 2h·v_fast(s, x_i, t_i) + √h·σ_i·noise_i   for i < T − 1
    x_T = x_{T−1} + h·ṽ(s, x_{T−1}, t_{T−1})                          an Euler step of the base flow
    obs (B, O), start x_0 (B, D), noise (T, B, D), of which the last is not used.
    """
    T, kernels = len(noise), fast.kernels
    h, x = 1 / T, start
    points, velocities = [], []
    base, fast = forward_only(base), forward_only(fast)
    for i in range(T):
        points.append(x)
        velocities.append(base.forward(obs, x, i / T)[0])
        if i < T - 1:
            moved = kernels(axpy, 2 * h, fast.forward(obs, x, i / T)[0], x * (i / (i + 1)))
            x = kernels(axpy, math.sqrt(h) * schedule(i, T), noise[i], moved)
    last = kernels(axpy, h, velocities[-1], x)
    return np.stack(points), np.stack(velocities), last


def lean_adjoint(base: MLPVelocity, obs: Array, points: Array, last_bar: Array) -> Array:
    """g_0 … g_{T−1}, (T, B, D), from g_T = last_bar: one vjp of the base flow in x for each step.

    g_i = g_{i+1}·i/(i+1) + 2h·J_iᵀ g_{i+1},  J_i = ∂ṽ(s, x, t_i + h)/∂x at x = x_i
    The drift is differentiated at (x_i, t_{i+1}): not the exact adjoint of the simulated path.
    """
    T, g = len(points), last_bar
    adjoint = np.empty_like(points)
    for i in reversed(range(T)):
        _, cache = base.forward(obs, points[i], (i + 1) / T)
        adjoint[i] = g = base.kernels(axpy, 2 / T, base.vjp(g, cache), g * (i / (i + 1)))
    return adjoint


def adjoint_path(
    fast: MLPVelocity,
    base: MLPVelocity,
    critic: MLPCritic,
    obs: Array,
    start: Array,
    noise: Array,
    inv_temp: float,
    clip_adj: bool = True,
    schedule: Schedule = sigma,
) -> AdjointPath:
    """The path of `simulated`, and its `lean_adjoint` from `last_cotangent`; arguments as there."""
    points, velocities, last = simulated(fast, base, obs, start, noise, schedule)
    last_bar = last_cotangent(critic, obs, last, inv_temp, clip_adj)
    return AdjointPath(points, velocities, lean_adjoint(base, obs, points, last_bar))


def last_cotangent(
    critic: MLPCritic, obs: Array, last: Array, inv_temp: float, clip_adj: bool = True
) -> Array:
    """g_T = −κ·c'(x_T)·∇_a q at c(x_T), (B, D): where the adjoint starts.

    q = mean_j of the critic's members; clip_adj False: at x_T itself, without the mask. κ inv_temp.
    """
    q, query = q_at(critic, obs, last, "mean", clip_adj)
    return q_at_vjp(critic, np.full_like(q, -inv_temp), query)


def adjoint_matching(
    fast: MLPVelocity, obs: Array, path: AdjointPath, schedule: Schedule = sigma
) -> tuple[float, MLPParams]:
    """L = mean_b Σ_i Σ_d r_i², and ∂L/∂v_fast's parameters; all rows count, invalid ones too.

    r_i = (2/σ_i)(v_fast(s, x_i, t_i) − ṽ(s, x_i, t_i)) + σ_i g_i,  v_bar_i = 4 r_i/(B·σ_i)
    obs (B, O). Its minimum over v_fast: ṽ − σ_i² g_i/2.
    """
    (T, B, D), kernels, dtype = path.points.shape, fast.kernels, path.points.dtype
    points, base, adjoint = (array.reshape(T * B, D) for array in path)
    times = np.repeat(np.arange(T) / T, B).astype(dtype)
    sizes = np.repeat([schedule(i, T) for i in range(T)], B).astype(dtype)
    noise = kernels(per_row, sizes, points)[:, None]
    velocity, cache = fast.forward(np.tile(obs, (T, 1)), points, times)
    away = kernels(scaled, 2 / noise, kernels(axpy, -1.0, base, velocity))
    residual = kernels(axpy, noise, adjoint, away)
    # of a sum over steps and dimensions, the mean over T·B·D rows is a share
    loss, residual_bar = kernels(squared_error, residual, kernels(zeros, residual), T * D)
    return loss, fast.vjp_params(kernels(scaled, 2 / noise, residual_bar), cache)
