"""The losses of the auxiliary networks, each against a base that is not trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.euler import integrate
from qgf_ref.losses.flow_matching import velocity_regression
from qgf_ref.losses.iql import dataset_q
from qgf_ref.nets.critic import MLPCritic, RobustCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.value import MLPValue
from qgf_ref.nets.velocity import ConditionalVelocity, MLPVelocity
from qgf_ref.ops.learning import path_point, squared_error
from qgf_ref.ops.lookup import lookup
from qgf_ref.ops.structure import on_host

UNCONDITIONAL_SHARE = 0.1
"""The weight of o = 0 in CFGRL's loss. Source: official.md, section 6."""


def robust_q_loss(
    critic: RobustCritic, target_critic: MLPCritic, obs: Array, x0: Array, x1: Array, t: Array
) -> tuple[float, MLPParams]:
    """L = mean over the batch of (Q_rob(s, x_t, t) − q)², and ∂L/∂φ.

    q is the aggregated target critic at the dataset action x1; no gradient flows into it.
    obs (B, O), x0 noise and x1 (B, D), t (B,). q_bar = 2(Q_rob − q)/B. Rows that cross an
    episode's end count, as in the official code. Source: official.md, section 6 (RobustQ).
    """
    point, _ = critic.kernels(path_point, x0, x1, t)
    q, cache = critic.forward(obs, point, t)
    loss, q_bar = critic.kernels(squared_error, q, dataset_q(target_critic, obs, x1))
    return loss, critic.vjp_params(q_bar, cache)


def cfgrl_loss(
    field: ConditionalVelocity,
    target_critic: MLPCritic,
    value: MLPValue,
    obs: Array,
    x0: Array,
    x1: Array,
    t: Array,
) -> tuple[float, MLPParams]:
    """L = mean over the batch of 1(A > 0)·F(o = 1) + 0.1·F(o = 0), and ∂L/∂θ.

    F(o) = mean over action dimensions of (v(s, x_t, t | o) − (x1 − x0))², the same x_t and t for
    both; A = Q(s, x1) − V(s) with the aggregated target critic. Shapes as in `robust_q_loss`.
    Source: method.md, section 4; official.md, section 6 (CFGRL).
    """
    advantage = dataset_q(target_critic, obs, x1) - forward_only(value).forward(obs)[0]
    better = (advantage.real > 0).astype(obs.dtype)
    # both conditions in one batch of 2B rows, whose mean halves each: hence the factor 2
    weight = 2 * np.concatenate([better, np.full_like(better, UNCONDITIONAL_SHARE)])
    condition = np.repeat([1, 0], len(obs))
    point, target = field.kernels(path_point, x0, x1, t)
    obs2, point2, target2, t2 = (np.concatenate([x, x]) for x in (obs, point, target, t))
    return velocity_regression(field.given(condition), obs2, point2, target2, t2, weight[:, None])


def distill_loss(
    field: MLPVelocity,
    policy: MLPVelocity,
    times: Sequence[float],
    obs: Array,
    x0: Array,
    x1: Array,
    start: Array,
) -> tuple[float, MLPParams]:
    """L = mean over batch and dimensions of (f_η(s, a_t, t) − ODE(a_t))², and ∂L/∂η.

    a_t = (1 − t)x0 + t·x1 with t = times[start]; ODE(a_t): the policy's Euler steps from there.
    times (T,), the sampler's grid; start (B,), integers in 0 … T − 1.
    [choice] The endpoint is *not* clipped: the estimators clip f_η themselves, as `qgf_chain`
    clips the endpoint, and a clipped target would flatten f_η near the bound and so mask its
    Jacobian a second time. Source: method.md, section 3.
    """
    grid = np.asarray(times)[:, None]
    t = field.kernels(lookup, grid, start, x1)[0][:, 0].astype(x1.dtype)
    point, _ = field.kernels(path_point, x0, x1, t)
    endpoint = endpoints(policy, times, obs, point, start)
    return velocity_regression(field, obs, point, endpoint, t)


def endpoints(
    policy: MLPVelocity, times: Sequence[float], obs: Array, action: Array, start: Array
) -> Array:
    """ODE(a) (B, D), row b's Euler steps from step start_b on; not clipped.

    Rows are sorted by their start, so that those under way are the first ones: step k asks the
    policy for those alone, in all B·(T + 1)/2 rows instead of B·T when starts are uniform.
    """
    kernels, policy = policy.kernels, forward_only(policy)
    start = kernels(on_host, start)
    order = np.argsort(start, kind="stable")
    begun = np.searchsorted(start[order], np.arange(len(times)), side="right")
    obs = kernels(lookup, obs, order, obs)[0]

    def drift(k: int, time: float, a: Array) -> Array:
        velocity = np.zeros_like(a)
        if rows := begun[k]:
            velocity[:rows] = policy.forward(obs[:rows], a[:rows], time)[0]
        return velocity

    state = kernels(lookup, action, order, action)[0]
    for moved in integrate(drift, state, times, kernels=kernels):
        state = moved
    back: Array = kernels(lookup, state, np.argsort(order), state)[0]
    return back
