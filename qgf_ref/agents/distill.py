"""A network that predicts the flow's endpoint, distilled from an IQL agent's policy."""

from __future__ import annotations

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import PlainRecipe
from qgf_ref.agents.stage import FLOW_TIMES, NOISE, Draw, Loss, Stage, StageInputs
from qgf_ref.flow.path import time_grid
from qgf_ref.losses.auxiliary import distill_loss

PARTS = (Part("distill", ("obs", "action", "time"), "action"),)

START = Draw(
    "start", lambda rng, batch, hyper: rng.integers(0, hyper.denoise_steps, size=len(batch.obs))
)
"""Steps 0 … T − 1 of the sampler, (B,): where the network will be asked."""


def _loss(inputs: StageInputs) -> Loss:
    nets, batch, drawn = inputs.nets, inputs.batch, inputs.drawn
    times = time_grid(inputs.hyper.denoise_steps, nets.policy.embedding)
    x0, x1, start = drawn["x0"], batch.action, drawn["start"]
    loss, bar = distill_loss(nets.distill, nets.policy, times, batch.obs, x0, x1, start)
    return loss, {"distill": bar}


# the flow times are drawn and not used, as in the trainings that earlier versions began
STAGE = Stage("distill", ("distill",), _loss, (NOISE, FLOW_TIMES, START), reads=("policy",))
DISTILL = Agent(
    "distill", PARTS, PlainRecipe(resident=True, parts=PARTS, stages=(STAGE,)), base="iql", stream=2
)
