"""The bank of training mistakes of each agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.diffusion import DiffusionRecipe
from qgf_ref.agents.dqc import DQCRecipe
from qgf_ref.agents.edp import EDPRecipe
from qgf_ref.agents.fql import FQLRecipe
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.qam import QAMRecipe
from qgf_ref.crosscheck.update.mistake import TrainingBank
from qgf_ref.crosscheck.update.mistakes import IQL_BANK
from qgf_ref.crosscheck.update.mistakes_actor import (
    Made,
    edp_mistakes,
    fql_mistakes,
    other_aggregation,
)
from qgf_ref.crosscheck.update.mistakes_adjoint import qam_mistakes
from qgf_ref.crosscheck.update.mistakes_critic import critic_mistakes, next_mistakes
from qgf_ref.crosscheck.update.mistakes_diffusion import diffusion_mistakes
from qgf_ref.crosscheck.update.mistakes_dqc import dqc_mistakes
from qgf_ref.crosscheck.update.stage_changes import UNCLIPPED, net, running


def _fql(recipe: FQLRecipe) -> Made:
    if recipe.settings.critic_loss_type != "ddpg":
        return fql_mistakes(recipe)
    says = "The next action is not clipped; official: to ±1."
    other = (
        "The critic bootstraps from the other of min and mean over members than the options say."
    )
    return (
        *fql_mistakes(recipe),
        *next_mistakes(
            ("next-q-other-aggregation", other, net("target_critic", other_aggregation)),
            ("next-action-unclipped", says, running("target_critic", UNCLIPPED)),
        ),
    )


ACTORS: dict[type[Any], Any] = {
    EDPRecipe: edp_mistakes,
    FQLRecipe: _fql,
    QAMRecipe: qam_mistakes,
    DiffusionRecipe: diffusion_mistakes,
}
"""Of a recipe, the mistakes that another agent's has not."""


def bank_of(agent: Agent) -> TrainingBank:
    """The agent's recipe, and the mistakes that are looked for with its settings.

    Of an agent without a bank, none are. Raises InputError when it has no recipe.
    """
    recipe = agent.require_recipe()
    if recipe is RECIPE:
        return IQL_BANK
    if isinstance(recipe, DQCRecipe):
        made = dqc_mistakes(recipe)
    elif (own := ACTORS.get(type(recipe))) is not None:
        made = (*own(recipe), *critic_mistakes(recipe))  # type: ignore[arg-type]
    else:
        made = ()
    return TrainingBank(recipe, tuple(replace(m, reference=recipe) for m in made))
