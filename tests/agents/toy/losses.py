"""The example agent's network of its own, and its losses: values and gradients in the parameters.

L_actor = mean over batch and dimensions of (μ(s, z) − a)²
L_critic = mean over members and batch of valid·(Q_e(s, a) − y)²
y = R + γᴴ·mask·Q̄(s', clip(μ(s', z')))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qgf_ref.agents.stage import Loss, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.iql import bootstrapped, critic_loss, dataset_q
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.learning import squared_error


@dataclass(frozen=True)
class NoiseToAction(JointMLP):
    """μ(s, z) = MLP([s, z]): an action from noise in one call, without a time."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "noise")
    active: ClassVar[Input] = "noise"

    def forward(self, obs: Array, noise: Array) -> tuple[Array, JointCache]:
        """a (B, D), not clipped. obs (B, O), noise (B, D)."""
        return self.joint(obs=obs, noise=noise)


def regression(inputs: StageInputs) -> Loss:
    """L_actor. action_bar = 2(μ − a)/(B·D)."""
    actor, batch = inputs.nets.actor, inputs.batch
    action, cache = actor.forward(batch.obs, inputs.drawn["z"])
    loss, action_bar = actor.kernels(squared_error, action, batch.action)
    return loss, {"actor": actor.vjp_params(action_bar, cache)}


def bootstrapped_critic(inputs: StageInputs) -> Loss:
    """L_critic; no gradient flows into μ or Q̄."""
    nets, batch, hyper = inputs.nets, inputs.batch, inputs.hyper
    action, _ = nets.actor.forward(batch.next_obs, inputs.drawn["next_z"])
    q = dataset_q(nets.target_critic, batch.next_obs, np.clip(action, -1, 1))
    y = bootstrapped(q, batch.rewards, batch.masks, hyper.discount, hyper.horizon)
    loss, bar = critic_loss(nets.critic, batch.obs, batch.action, y, batch.valid)
    return loss, {"critic": bar}
