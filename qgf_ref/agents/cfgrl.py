"""CFGRL's flow, conditioned on whether the action is better than the policy's value says."""

from __future__ import annotations

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import PlainRecipe
from qgf_ref.agents.stage import FLOW_TIMES, NOISE, Loss, Stage, StageInputs
from qgf_ref.losses.auxiliary import cfgrl_loss

PARTS = (Part("cfgrl", ("obs", "action", "time", "label"), "action"),)


def _loss(inputs: StageInputs) -> Loss:
    nets, batch = inputs.nets, inputs.batch
    x0, x1, t = inputs.drawn["x0"], batch.action, inputs.drawn["t"]
    loss, bar = cfgrl_loss(nets.cfgrl, nets.target_critic, nets.value, batch.obs, x0, x1, t)
    return loss, {"cfgrl": bar}


STAGE = Stage("cfgrl", ("cfgrl",), _loss, (NOISE, FLOW_TIMES), reads=("target_critic", "value"))
RECIPE = PlainRecipe(resident=True, parts=PARTS, stages=(STAGE,))
CFGRL = Agent("cfgrl", PARTS, RECIPE, base="iql", stream=1)
