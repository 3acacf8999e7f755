"""What each auxiliary network is, what it is trained on, and its loss, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.data.windows import Transitions
from qgf_ref.losses.auxiliary import cfgrl_loss, distill_loss, robust_q_loss
from qgf_ref.losses.batch import Batch
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.nets.initialisers import init_conditional, init_value, init_velocity
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.time_embedding import DIM
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.loop import training_batch


class Base(NamedTuple):
    """The networks that stay as they are, and the sampler's times (T,)."""

    networks: Networks
    times: tuple[float, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint, kernels: Kernels) -> Base:
        """With times embedded as float32 training and sampling embed them."""
        networks = checkpoint.networks(embedding="float32", kernels=kernels)
        return cls(networks, checkpoint.guided_flow(embedding="float32").times)


Loss = Callable[[Any, Base, Batch, Array, Array], tuple[float, MLPParams]]
"""(network, base, batch, noise x0 (B, D), flow times t (B,) or start steps (B,)) → L, ∂L/∂params"""


def initial(
    name: str, rng: np.random.Generator, checkpoint: Checkpoint, hidden: Sequence[int]
) -> MLPParams:
    """Initial parameters, float32."""
    O, D = checkpoint.obs_dim, checkpoint.flat_action_dim
    if name == "robust_q":
        return init_value(rng, O + D + DIM, hidden)
    return (init_conditional if name == "cfgrl" else init_velocity)(rng, O, D, hidden)


def network(name: str, checkpoint: Checkpoint, params: MLPParams, kernels: Kernels) -> Any:
    """The network that is trained, with these parameters."""
    held: Any = {name: params}
    alone = replace(checkpoint, auxiliary=AuxiliaryParams(**held))
    found = getattr(alone.guided_flow(embedding="float32", kernels=kernels).auxiliary, name)
    return found[0] if name == "cfgrl" else found


def draw(
    name: str, rng: np.random.Generator, data: Transitions, config: TrainConfig
) -> tuple[Batch, Array, Array]:
    """One batch, its noise x0 (B, D), and its flow times t (B,); of distill the start steps (B,).

    robust_q's times are U[0, 1) (official.md, section 6), cfgrl's those of the run; distill starts
    at the sampler's steps 0 … T − 1, where its network will be asked.
    """
    times = "uniform" if name == "robust_q" else config.flow_times
    batch, drawn = training_batch(rng, data, replace(config, flow_times=times))
    x0, t = drawn["x0"], drawn["t"]
    if name == "distill":
        t = rng.integers(0, config.denoise_steps, size=config.batch)
    return batch, x0, t


def _robust_q(net: Any, base: Base, b: Batch, x0: Array, t: Array) -> tuple[float, MLPParams]:
    return robust_q_loss(net, base.networks.target_critic, b.obs, x0, b.action, t)


def _cfgrl(net: Any, base: Base, b: Batch, x0: Array, t: Array) -> tuple[float, MLPParams]:
    nets = base.networks
    return cfgrl_loss(net, nets.target_critic, nets.value, b.obs, x0, b.action, t)


def _distill(net: Any, base: Base, b: Batch, x0: Array, start: Array) -> tuple[float, MLPParams]:
    return distill_loss(net, base.networks.policy, base.times, b.obs, x0, b.action, start)


LOSSES: dict[str, Loss] = {"robust_q": _robust_q, "cfgrl": _cfgrl, "distill": _distill}
