"""DQC's flow and critics under the names of every guided flow: what a cross-check compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import ONLINE, TARGET, DQCAgent, climbing
from qgf_ref.nets.critic import Critic


@dataclass(frozen=True)
class GoalGuided(FlowAgent):
    """`target_critic` is what guides and ranks, and `critic` the other copy of it.

    online    whether it is the online critic that guides
    output    what of it is climbed
    goal_dim  columns of a goal, the last ones of an observation
    """

    online: bool = True
    output: Literal["logit", "probability"] = "logit"
    goal_dim: int = 0
    of_goals: ClassVar[bool] = True

    def climbed(self, critic: Critic) -> Critic:
        """The critic of logits, or of probabilities round it."""
        return climbing(critic, self.output)


def under_usual_names(checkpoint: Checkpoint) -> Checkpoint:
    """Of DQC the flow that is guided, and the critics that may guide it; any other as it is."""
    agent = checkpoint.agent
    if not isinstance(agent, DQCAgent):
        return checkpoint
    guide, other = (ONLINE, TARGET) if agent.critic == ONLINE else (TARGET, ONLINE)
    own = agent.settings
    parts = (
        agent.part("policy"),
        replace(agent.part(other), name="critic", target_of=None, acting=False),
        replace(agent.part(guide), name="target_critic", target_of=None, acting=True),
    )
    usual = GoalGuided(
        "dqc", parts, online=guide == ONLINE, output=own.guide_output, goal_dim=own.goal_dim
    )
    params = {
        "policy": checkpoint.part("policy"),
        "critic": checkpoint.part(other),
        "target_critic": checkpoint.part(guide),
    }
    return replace(checkpoint, params=params, agent=usual)
