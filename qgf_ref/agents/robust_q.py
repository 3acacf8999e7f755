"""A critic of noisy actions, trained against the target critic of an IQL agent."""

from __future__ import annotations

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import PlainRecipe
from qgf_ref.agents.stage import NOISE, UNIFORM_TIMES, Loss, Stage, StageInputs
from qgf_ref.losses.auxiliary import robust_q_loss

PARTS = (Part("robust_q", ("obs", "action", "time"), "scalar"),)


def _loss(inputs: StageInputs) -> Loss:
    net, critic = inputs.nets.robust_q, inputs.nets.target_critic
    x0, x1, t = inputs.drawn["x0"], inputs.batch.action, inputs.drawn["t"]
    loss, bar = robust_q_loss(net, critic, inputs.batch.obs, x0, x1, t)
    return loss, {"robust_q": bar}


STAGE = Stage("robust_q", ("robust_q",), _loss, (NOISE, UNIFORM_TIMES), reads=("target_critic",))
"""Times are U[0, 1) whatever the run's are. Source: official.md, section 6 (RobustQ)."""
RECIPE = PlainRecipe(resident=True, parts=PARTS, stages=(STAGE,))
ROBUST_Q = Agent(
    "robust_q",
    PARTS,
    RECIPE,
    base="iql",
    stream=0,
)
