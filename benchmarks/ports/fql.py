"""Two ports of flow Q-learning to PyTorch: raw time, LayerNorm after the activation or none."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from benchmarks.ports.sources import importing, pinned
from benchmarks.ports.trials import ROWS, STEPS, Trial
from qgf_ref import adapters
from qgf_ref.arrays import Array

VCAIPU = pinned("vcaipu/fql")
DASYUD = pinned("Dasyud/FQL-PyTorch")
OBS, D, HIDDEN = 6, 3, (16, 16)


def vcaipu(folder: Path) -> Trial:
    """Layers are built at the first call, after the optimiser was given its parameters."""
    with importing(VCAIPU.written(folder)):
        fql = import_module("agents.fql")
        settings = fql.get_config() | {
            "actor_hidden_dims": HIDDEN, "value_hidden_dims": HIDDEN, "actor_layer_norm": True,
            "flow_steps": STEPS,
        }  # fmt: skip
        agent = fql.FQLAgent.create(0, np.zeros((1, OBS)), np.zeros((1, D)), settings)
    ask = agent.network.select
    ask("actor_bc_flow")(torch.zeros(1, OBS), torch.zeros(1, D), torch.zeros(1, 1))
    ask("critic")(torch.zeros(1, OBS), torch.zeros(1, D))
    agent.network.model_def.eval()
    flow = adapters.torch(
        lambda obs, x, t: ask("actor_bc_flow")(obs, x, t[:, None]),
        lambda obs, x: ask("critic")(obs, x),
        action_shape=D, obs_dim=OBS, denoise_steps=STEPS, aggregation="mean", dtype="float32",
    )  # fmt: skip

    def sampler(obs: Array, noise: Array, _: float) -> Array:
        return agent.compute_flow_actions(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()

    return Trial(VCAIPU, "`FQLAgent.compute_flow_actions`", flow, _observations(), sampler, "none")


def dasyud(folder: Path) -> Trial:
    """Its loop clips after every step; the official one, of which it is a port, at its end."""
    with importing(DASYUD.written(folder)):
        fql = import_module("fql")
    torch.manual_seed(0)
    settings = fql.get_config() | {"flow_steps": STEPS, "action_dim": D}
    agent = fql.FlowQLAgent(fql.FlowQLNetwork(OBS, D, HIDDEN), settings).eval()
    nets = agent.network
    flow = adapters.torch(
        lambda obs, x, t: nets.actor_bc_flow(obs, x, t[:, None]),
        lambda obs, x: nets.critic(obs, x).T,
        action_shape=D, obs_dim=OBS, denoise_steps=STEPS, aggregation="mean",
    )  # fmt: skip

    @torch.no_grad()
    def sampler(obs: Array, noise: Array, _: float) -> Array:
        return agent.compute_flow_actions(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()

    return Trial(
        DASYUD, "`FlowQLAgent.compute_flow_actions`", flow, _observations(), sampler, "none",
        ("clip-every-step",),
    )  # fmt: skip


def _observations() -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, OBS)).astype(np.float32)


def trials(folder: Path) -> list[Trial]:
    """Of both. Raises NoSource."""
    return [vcaipu(folder), dasyud(folder)]
