"""DQC: a critic of long action chunks teaches one of the policy's chunks; reaching goals.

Its observation is [s, g]; every network but an unconditional policy reads the goal. Source:
goal_conditioned.md, sections 2 to 6; Li et al., Decoupled Q-Chunking, arXiv 2512.10926.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.dqc_settings import DEFAULTS, DQCSettings
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.stage import FLOW_TIMES, UNIFORM_TIMES, Draw, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.losses.actor import weighted_flow_matching
from qgf_ref.losses.batch import Batch, GoalBatch
from qgf_ref.losses.dqc import (
    backup_loss,
    chunk_critic_loss,
    distillation_loss,
    reach_target,
)
from qgf_ref.nets.critic import Critic
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.probability import ProbabilityCritic
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.logits import logit_of, probability, reduced_logit
from qgf_ref.ops.structure import concat
from qgf_ref.ops.time_embedding import Precision

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint

ONLINE, TARGET = "action_critic", "target_action_critic"


def of_goals(batch: Any) -> GoalBatch:
    """The batch itself. Raises InputError when it has no goals."""
    if not isinstance(batch, GoalBatch):
        raise InputError(
            "the agent dqc is trained on goal-conditioned batches (qgf_ref.data.goals), not on "
            "those of one task"
        )
    return batch


def with_goal(inputs: StageInputs) -> Array:
    """[s, g], (B, O + G)."""
    batch = of_goals(inputs.batch)
    return inputs.nets.value.kernels(concat, batch.obs, batch.goal)[0]


def backup_logit(inputs: StageInputs) -> Array:
    """Logit (B,) of agg_e σ(z_e), z the target action critic at the data's first h_a actions."""
    critic, batch = inputs.nets[TARGET], of_goals(inputs.batch)
    width = critic.params.in_features - batch.obs.shape[1] - batch.goal.shape[1]
    z, _ = forward_only(critic).forward(with_goal(inputs), batch.action[:, :width])
    return critic.kernels(reduced_logit, z, critic.aggregation)


@dataclass(frozen=True)
class DQCRecipe(Recipe):
    """Four losses, three without a chunk critic; each sees the networks from before the update.

    reached     y (B,) of what the value says of s_{i+k}
    teacher     logits of what the action critic learns, (E, B) or (B,)
    backup      logit of what the value learns, (B,)
    valid       (B,), of the action critic's, the value's and the unconditional policy's rows
    """

    parts: tuple[Part, ...] = ()  # type: ignore[misc]
    resident: bool = True
    settings: DQCSettings = DEFAULTS
    reached: Callable[..., Array] = reach_target
    teacher: Callable[[DQCRecipe, StageInputs], Array] = lambda recipe, inputs: recipe.taught(
        inputs
    )
    backup: Callable[[StageInputs], Array] = backup_logit
    valid: Callable[[DQCSettings, StageInputs], Array] = lambda own, inputs: (
        # trap T5: the official code reads column h_a·A − 1, or the last one
        inputs.batch.valid[:, own.policy_chunk_size - 1]
    )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Cloning; the chunk critic's, the action critic's and the value's loss."""
        own = self.settings
        times = UNIFORM_TIMES if own.policy_network == "dqc" else FLOW_TIMES
        noise = Draw("x0", lambda rng, batch, hyper: rng.standard_normal(self.chunk(batch).shape))
        policy = Stage("policy", ("policy",), self._policy, (noise, times))
        chunk = Stage("chunk_critic", ("chunk_critic",), self._chunk_critic, reads=("value",))
        reads = ("chunk_critic",) if own.use_chunk_critic else ("value",)
        action = Stage(ONLINE, (ONLINE,), self._action_critic, reads=reads, fixed=self._taught)
        value = Stage("value", ("value",), self._value, reads=(TARGET,), fixed=self.backup)
        return (policy, *([chunk] if own.use_chunk_critic else []), action, value)

    def held_out(self, inputs: StageInputs) -> dict[str, float]:
        """The mean logit of the target action critic at the data's actions."""
        return {"q": float(backup_logit(inputs).mean())}

    def taking(self, batch: Batch) -> GoalBatch:
        """Its observations as [s, g], its action repeated to the length h; k of 0 to h."""
        own, rows = self.settings, np.arange(len(batch.obs))
        h, O = own.backup_horizon, batch.obs.shape[1] - own.goal_dim
        action = replace(self.parts[0], chunk=(h, own.policy_chunk_size)).fitted(vars(batch))
        goal, steps = batch.obs[:, O:], rows % (h + 1)
        return GoalBatch(
            obs=batch.obs[:, :O],
            action=action["action"],
            goal=goal,
            policy_goal=goal[:, : own.goal_dim if own.policy_goals else 0],
            next_obs=batch.next_obs[:, :O],
            rewards=(1 - batch.masks) * 0.9**steps,
            masks=batch.masks,
            steps=steps,
            valid=np.repeat(batch.valid[:, None], h, axis=1),
            **{f"{of}row": rows for of in ("", "goal_", "policy_goal_")},
        )

    def chunk(self, batch: Any) -> Array:
        """a_{0:h_a}, (B, h_a·A), of a batch's a_{0:h}."""
        own, batch = self.settings, of_goals(batch)
        width = batch.action.shape[1] * own.policy_chunk_size // own.backup_horizon
        action: Array = batch.action[:, :width].copy()
        return action

    def reach(self, inputs: StageInputs) -> Array:
        """y (B,): `qgf_ref.losses.dqc.reach_target`, in the networks' dtype."""
        batch, value = of_goals(inputs.batch), inputs.nets.value
        # k is an integer array: γᵏ is float64 in NumPy whatever the batch's dtype (trap T19)
        discounts = (inputs.hyper.discount**batch.steps).astype(batch.rewards.dtype)
        next_obs = value.kernels(concat, batch.next_obs, batch.goal)[0]
        return self.reached(value, next_obs, batch.rewards, batch.masks, discounts)

    def taught(self, inputs: StageInputs) -> Array:
        """The chunk critic's logits (E, B); those of y (B,), which may be ∞, without one."""
        if not self.settings.use_chunk_critic:
            return logit_of(self.reach(inputs))
        critic = forward_only(inputs.nets.chunk_critic)
        z: Array = critic.forward(with_goal(inputs), inputs.batch.action)[0]
        return z

    def _taught(self, inputs: StageInputs) -> Array:
        return self.teacher(self, inputs)

    def _policy(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.actor.weighted_flow_matching`; all rows count where it has goals."""
        batch, drawn, own = of_goals(inputs.batch), inputs.drawn, self.settings
        obs, valid = with_goal(inputs), np.ones_like(batch.obs[:, 0])
        if own.policy_goals:
            obs = inputs.nets.policy.kernels(concat, batch.obs, batch.policy_goal)[0]
        elif own.policy_network == "dqc":
            valid = self.valid(own, inputs)
        chunk = self.chunk(batch)
        loss, bar = weighted_flow_matching(
            inputs.nets.policy, obs, drawn["x0"], chunk, drawn["t"], valid
        )
        return loss, {"policy": bar}

    def _chunk_critic(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.dqc.chunk_critic_loss`."""
        critic, y = inputs.nets.chunk_critic, self.reach(inputs)
        loss, bar = chunk_critic_loss(critic, with_goal(inputs), inputs.batch.action, y)
        return loss, {"chunk_critic": bar}

    def _action_critic(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.dqc.distillation_loss`."""
        assert inputs.fixed is not None
        own, critic, action = self.settings, inputs.nets[ONLINE], self.chunk(inputs.batch)
        loss, bar = distillation_loss(
            critic, with_goal(inputs), action, inputs.fixed, self.valid(own, inputs),
            own.kappa_d, own.distill_method,
        )  # fmt: skip
        return loss, {ONLINE: bar}

    def _value(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.dqc.backup_loss`."""
        assert inputs.fixed is not None
        own, kappa = self.settings, inputs.hyper.expectile
        loss, bar = backup_loss(
            inputs.nets.value, with_goal(inputs), inputs.fixed, self.valid(own, inputs), kappa,
            own.implicit_backup_type,
        )  # fmt: skip
        return loss, {"value": bar}


@dataclass(frozen=True)
class DQCAgent(FlowAgent):
    """Acts by its flow on observations [s, g], guided by the action critic as its settings say.

    Official: best of N by the online critic's logits, which are reduced as logits there and as
    probabilities in the value's loss (trap T8).
    """

    settings: DQCSettings = DEFAULTS
    critic: str = ONLINE
    of_goals: ClassVar[bool] = True

    def with_settings(self, settings: DQCSettings) -> DQCAgent:
        """The agent of these settings."""
        return dqc(settings)

    def guiding(self, field: Part, source: str) -> DQCAgent:
        """The agent whose critic guides another flow. Raises InputError where none has such one.

        field  that flow's network; source: for the error
        """
        for goals, network in product((True, False), ("qgf", "dqc")):
            flow = {"policy_goals": goals, "policy_network": network}
            agent = dqc(self.settings.changed(flow))
            own = agent.part("policy")
            told = (own.inputs, own.norm_after, own.unread)
            if told == (field.inputs, field.norm_after, field.unread):
                return agent
        raise InputError(
            f"{source} has a flow of {', '.join(field.inputs)}, which a critic of goals cannot "
            "guide: it guides QGF's flow and DQC's"
        )

    def flow(
        self,
        checkpoint: Checkpoint,
        *,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> GuidedFlow:
        """The policy's field of [s, g], and the critic of logits or probabilities that guides.

        Raises InputError when the checkpoint lacks one of the two networks, and where its
        horizon_length is not the policy_chunk_size.
        """
        own = self.settings
        if checkpoint.horizon != own.policy_chunk_size:
            raise InputError(
                f"{checkpoint.source} has chunks of {checkpoint.horizon} actions, but "
                f"policy_chunk_size {own.policy_chunk_size}"
            )
        if own.goal_dim >= checkpoint.obs_dim:
            raise InputError(
                f"{checkpoint.source} has observations [s, g] of {checkpoint.obs_dim} columns, so "
                f"that goals cannot have goal_dim = {own.goal_dim} of them"
            )
        return super().flow(checkpoint, embedding=embedding, kernels=kernels)

    def climbed(self, critic: Critic) -> Critic:
        """The critic of logits, or of probabilities round it."""
        return climbing(critic, self.settings.guide_output)

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """The probability γ^steps of reaching the goal (B,), of the critic that guides."""
        expected = super().q(checkpoint, obs, chunks)
        return expected if self.settings.guide_output == "probability" else probability(expected)[0]


def climbing(critic: Critic, output: str) -> Critic:
    """A critic of logits as what is climbed of it: "logit" or "probability"."""
    return critic if output == "logit" else ProbabilityCritic(critic)


def dqc(settings: DQCSettings) -> DQCAgent:
    """DQC; QC where h_a = h, QC-NS and NS where h_a < h, OS where both are 1, without Q_C."""
    own = settings
    h, h_a = own.backup_horizon, own.policy_chunk_size
    theirs = own.policy_network == "dqc"
    unread = 0 if own.policy_goals else own.goal_dim
    time: Any = "raw_time" if theirs else "time"
    policy = Part(
        "policy", ("obs", "action", time), "action", acting=True, unread=unread, norm_after=theirs
    )
    guide = ONLINE if own.guide_critic == "online" else TARGET
    critic = Part(
        ONLINE, ("obs", "action"), "scalar", True, acting=guide == ONLINE, norm_after=True
    )
    chunk = replace(critic, name="chunk_critic", acting=False, chunk=(h, h_a))
    average = replace(critic, name=TARGET, target_of=ONLINE, acting=guide == TARGET)
    value = Part("value", ("obs",), "scalar", norm_after=True)
    critics = (chunk, critic) if own.use_chunk_critic else (critic,)
    parts = (policy, *critics, average, value)
    return DQCAgent("dqc", parts, DQCRecipe(parts=parts, settings=own), settings=own, critic=guide)


DQC = dqc(DQCSettings())
