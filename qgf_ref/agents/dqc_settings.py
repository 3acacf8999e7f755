"""What of DQC can be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qgf_ref.agents.settings import OwnSettings, setting
from qgf_ref.errors import InputError
from qgf_ref.losses.dqc import Statistic


@dataclass(frozen=True)
class DQCSettings(OwnSettings):
    """The official code's options, under their names, and what it does not have.

    κ_b, the level of the value's statistic, is the option `expectile`; h_a is `horizon_length`,
    too. The critic guides online and by logits unless it is told otherwise: so DQC ranks, and a
    logit's gradient does not fade where a goal is near certain or hopeless. No source says what the
    paper's goal-conditioned runs did.
    """

    goal_dim: int = setting(0, "columns of a goal, the last ones of an observation [s, g]")
    backup_horizon: int = setting(25, "actions of the chunk critic's chunk, h")
    policy_chunk_size: int = setting(5, "actions of the policy's chunk, h_a")
    use_chunk_critic: bool = setting(True, "false: no chunk critic, n-step returns")
    kappa_d: float = setting(0.8, "level of what the action critic learns of the chunk critic")
    distill_method: Statistic = setting("expectile", "of the chunk critic's values")
    implicit_backup_type: Statistic = setting("quantile", "of the action critic's values")
    policy_goals: bool = setting(True, "false: the flow clones without goals, as DQC's own")
    policy_network: Literal["qgf", "dqc"] = setting("qgf", "whose layers the flow has")
    guide_critic: Literal["online", "target"] = setting("online", "which copy guides and ranks")
    guide_output: Literal["logit", "probability"] = setting("logit", "what of it is climbed")
    value_p_curgoal: float = setting(0.2, "how often the critics' goal is the state itself")
    value_p_trajgoal: float = setting(0.5, "… a later state of its episode")
    value_p_randomgoal: float = setting(0.3, "… any state")
    value_geom_sample: bool = setting(False, "later by geometric(1 − γ) steps, else uniformly")
    actor_p_curgoal: float = setting(0.0, "how often the flow's goal is the state itself")
    actor_p_trajgoal: float = setting(1.0, "… a later state of its episode")
    actor_p_randomgoal: float = setting(0.0, "… any state")
    actor_geom_sample: bool = setting(True, "later by geometric(1 − γ) steps, else uniformly")
    short_episodes: Literal["refuse", "skip"] = setting("refuse", "of no more than h transitions")

    def __post_init__(self) -> None:
        """Check the types, 1 ≤ h_a ≤ h, 0 ≤ κ_d ≤ 1."""
        super().__post_init__()
        if not 1 <= self.policy_chunk_size <= self.backup_horizon:
            raise InputError(
                f"a policy's chunk has from 1 to backup_horizon = {self.backup_horizon} actions, "
                f"not policy_chunk_size = {self.policy_chunk_size}"
            )
        if self.goal_dim < 0:
            raise InputError(f"a goal has 0 or more columns, not goal_dim = {self.goal_dim}")
        if not 0 <= self.kappa_d <= 1:
            raise InputError(f"kappa_d is a level from 0 to 1, not {self.kappa_d}")


DEFAULTS = DQCSettings()
