"""One training update of Q-Guided Flow: behaviour cloning and IQL, which never touch.

Pure: `update` returns a new state and leaves the old one alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.iql import critic_loss, critic_target, value_loss
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks


@dataclass(frozen=True)
class Batch:
    """One training batch, chunk windows already flattened.

    obs (B, O); action (B, D); next_obs (B, O), the observation after the chunk; rewards (B,), the
    discounted sum within the chunk; masks (B,), 0 where the task ended; valid (B,), 0 where the
    window crosses the end of an episode.
    """

    obs: Array
    action: Array
    next_obs: Array
    rewards: Array
    masks: Array
    valid: Array

    def astype(self, dtype: DTypeLike) -> Batch:
        """Every array in another dtype."""
        return Batch(**{name: array.astype(dtype) for name, array in vars(self).items()})


@dataclass(frozen=True)
class Hyperparameters:
    """What an update needs beside the networks. `horizon` is H of the bootstrap γᴴ."""

    discount: float = 0.99
    horizon: int = 1
    expectile: float = 0.9
    tau: float = 0.005
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class TrainState:
    """Networks and the three optimisers' states; the target critic has none."""

    networks: Networks
    policy_adam: AdamState
    critic_adam: AdamState
    value_adam: AdamState

    @classmethod
    def create(cls, networks: Networks) -> TrainState:
        """The state before the first update."""
        return cls(
            networks,
            AdamState.zero(networks.policy.params),
            AdamState.zero(networks.critic.params),
            AdamState.zero(networks.value.params),
        )


@dataclass(frozen=True)
class Losses:
    """The three losses of one batch and their gradients in the parameters."""

    policy: float
    critic: float
    value: float
    policy_bar: MLPParams
    critic_bar: MLPParams
    value_bar: MLPParams


def losses(nets: Networks, batch: Batch, x0: Array, t: Array, hyper: Hyperparameters) -> Losses:
    """All three losses on one batch, with noise x0 (B, D) and flow times t (B,).

    Raises InputError on a batch of 0 rows, whose mean is undefined.
    """
    if not len(batch.obs):
        raise InputError("a training batch needs at least one row")
    policy, policy_bar = flow_matching(nets.policy, batch.obs, x0, batch.action, t)
    target = critic_target(
        nets.value, batch.next_obs, batch.rewards, batch.masks, hyper.discount, hyper.horizon
    )
    critic, critic_bar = critic_loss(nets.critic, batch.obs, batch.action, target, batch.valid)
    value, value_bar = value_loss(
        nets.value, nets.target_critic, batch.obs, batch.action, batch.valid, hyper.expectile
    )
    return Losses(policy, critic, value, policy_bar, critic_bar, value_bar)


def update(
    state: TrainState, batch: Batch, x0: Array, t: Array, hyper: Hyperparameters
) -> tuple[TrainState, Losses]:
    """One update of all networks from the parameters *before* the step.

    The value loss reads the old target critic, the critic loss the old value, and the target
    critic moves towards the critic from before its update. Raises NonFiniteError naming the
    network whose loss is not finite. Source: official.md, section 3.
    """
    nets = state.networks
    result = losses(nets, batch, x0, t, hyper)
    for name in ("policy", "critic", "value"):
        require_finite(np.atleast_1d(getattr(result, name)), f"the {name} loss")
    rate = hyper.learning_rate
    policy, policy_adam = adam(nets.policy.params, result.policy_bar, state.policy_adam, rate)
    critic, critic_adam = adam(nets.critic.params, result.critic_bar, state.critic_adam, rate)
    value, value_adam = adam(nets.value.params, result.value_bar, state.value_adam, rate)
    target = target_update(nets.target_critic.params, nets.critic.params, hyper.tau)
    networks = Networks(
        policy=replace(nets.policy, params=policy),
        critic=replace(nets.critic, params=critic),
        target_critic=replace(nets.target_critic, params=target),
        value=replace(nets.value, params=value),
    )
    return TrainState(networks, policy_adam, critic_adam, value_adam), result
