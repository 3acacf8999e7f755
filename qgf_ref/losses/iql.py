"""Implicit Q-learning: the critic's and the value's loss."""

from __future__ import annotations

from qgf_ref.arrays import Array
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.value import MLPValue
from qgf_ref.ops.ensemble import ensemble_reduce
from qgf_ref.ops.learning import expectile_error, squared_error


def critic_target(
    value: MLPValue, next_obs: Array, rewards: Array, masks: Array, discount: float, horizon: int
) -> Array:
    """y = R + γᴴ·mask·V(s_{k+H}), (B,). No gradient flows into V.

    rewards (B,): R = Σ_{i<H} γⁱ r_{k+i}, already discounted. Source: method.md, section 1.
    """
    bootstrap, _ = forward_only(value).forward(next_obs)
    return bootstrapped(bootstrap, rewards, masks, discount, horizon)


def bootstrapped(
    bootstrap: Array, rewards: Array, masks: Array, discount: float, horizon: int
) -> Array:
    """y = R + γᴴ·mask·bootstrap, (B,), or (E, B) as the bootstrap. rewards, masks (B,)."""
    return rewards + discount**horizon * masks * bootstrap


def critic_loss(
    critic: MLPCritic, obs: Array, action: Array, target: Array, valid: Array
) -> tuple[float, MLPParams]:
    """L = mean over members and batch of valid·(Q_e(s, a) − y)², and ∂L/∂φ.

    Every member regresses on the same target; invalid rows count in the denominator.
    q_bar_e = 2·valid·(Q_e − y)/(E·B). Source: official.md, section 3.
    """
    q, cache = critic.forward(obs, action)
    loss, q_bar = critic.kernels(squared_error, q, target, valid)
    return loss, critic.vjp_params(q_bar, cache)


def value_loss(
    value: MLPValue,
    target_critic: MLPCritic,
    obs: Array,
    action: Array,
    valid: Array,
    expectile: float,
) -> tuple[float, MLPParams]:
    """L = mean of valid·|τ − 1(q − V ≤ 0)|·(q − V)², and ∂L/∂ψ.

    q is the aggregated *target* critic at the dataset action; no gradient flows into it.
    At q = V the weight is 1 − τ. V_bar = −2·valid·weight·(q − V)/B.
    Source: method.md, section 1; official.md, section 3.
    """
    return value_regression(value, obs, dataset_q(target_critic, obs, action), valid, expectile)


def dataset_q(target_critic: MLPCritic, obs: Array, action: Array) -> Array:
    """q (B,) of `value_loss`: the members' values at the dataset action, reduced."""
    q, _ = forward_only(target_critic).forward(obs, action)
    return target_critic.kernels(ensemble_reduce, q, target_critic.aggregation)[0]


def value_regression(
    value: MLPValue, obs: Array, q: Array, valid: Array, expectile: float
) -> tuple[float, MLPParams]:
    """`value_loss` with its q (B,) given."""
    v, cache = value.forward(obs)
    loss, value_bar = value.kernels(expectile_error, q, v, valid, expectile)
    return loss, value.vjp_params(value_bar, cache)
