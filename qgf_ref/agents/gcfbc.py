"""The goal-conditioned flow of horizon-reduction, alone: behaviour cloning that a critic may guide.

Its field reads [s, g], actions and the time as it is. Source: goal_conditioned.md, section 5
(`gcfbc` of seohongpark/horizon-reduction).
"""

from __future__ import annotations

from typing import ClassVar

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.part import Part


class GoalFlow(FlowAgent):
    """A flow of [s, g], and no critic."""

    of_goals: ClassVar[bool] = True


GCFBC = GoalFlow(
    "gcfbc",
    (Part("policy", ("obs", "action", "raw_time"), "action", acting=True, norm_after=True),),
)
