"""The critic's and the value's stages, which every agent of the paper has beside its actor's.

IQL's critic bootstraps from a value V, which follows an expectile of the target critic. A
bootstrapped critic asks the actor for the next action instead, and there is no value.
Source: method.md, section 1; official.md, section 3; baselines.md, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.stage import Draw, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch
from qgf_ref.losses.iql import bootstrapped, critic_loss, dataset_q, value_regression
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks, forward_only

CRITIC_PARTS = (
    Part("critic", ("obs", "action"), "scalar", ensemble=True),
    Part("target_critic", ("obs", "action"), "scalar", True, target_of="critic", acting=True),
    Part("value", ("obs",), "scalar"),
)

Ingredient = Callable[[StageInputs], Any]


def one(inputs: StageInputs) -> float:
    """1: a weight or factor that is none."""
    del inputs
    return 1.0


def _valid(inputs: StageInputs) -> Array:
    return inputs.batch.valid


@dataclass(frozen=True)
class CriticRecipe(Recipe):
    """Updates whose critic is IQL's or bootstrapped; every choice in their losses an ingredient.

    Weights multiply the squared error *inside* the mean over all its elements, invalid rows
    included: critic_weight (B,) or (E, B), value_weight (B,); scales are plain factors of the loss.
    bootstrap is V(s') of the critic's target, or what stands for it, (B,), or (E, B) for members of
    their own; it needs next_draws and reads next_reads. into_critic and into_value are gradients
    that other losses leave in these two networks: none. Without a part `value` there is no value's
    stage.
    """

    bootstrap: Ingredient = lambda inputs: forward_only(inputs.nets.value).forward(
        inputs.batch.next_obs
    )[0]
    next_draws: tuple[Draw, ...] = ()
    next_reads: tuple[str, ...] = ("value",)
    masks: Callable[[Batch], Array] = lambda batch: batch.masks
    exponent: Callable[[int], int] = lambda horizon: horizon
    critic_weight: Ingredient = _valid
    critic_members: Ingredient = one
    critic_scale: Ingredient = one
    into_critic: Callable[[Any, StageInputs], MLPParams] | None = None

    value_critic: Callable[[Networks], MLPCritic] = lambda nets: nets.target_critic
    value_aggregation: Callable[[str], str] = lambda name: name
    value_weight: Ingredient = _valid
    value_scale: Ingredient = one
    expectile: Callable[[float], float] = lambda expectile: expectile
    into_value: Callable[[Any, StageInputs], MLPParams] | None = None

    @property
    def critic_stages(self) -> tuple[Stage, ...]:
        """The critic's regression, and the value's expectile regression if there is one."""
        reads, draws = self.next_reads, self.next_draws
        critic = Stage("critic", ("critic",), self._critic, draws, reads=reads)
        if all(part.name != "value" for part in self.parts):
            return (critic,)
        value = Stage("value", ("value",), self._value, reads=("target_critic",), fixed=self._q)
        return critic, value

    def held_out(self, inputs: StageInputs) -> dict[str, float]:
        """The mean of the target critic at the data's actions."""
        batch = inputs.batch
        q = dataset_q(inputs.nets.target_critic, batch.obs, batch.action)
        return {"q": float(q.mean())}

    def _critic(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.iql.critic_loss` on `regression_target`."""
        batch = inputs.batch
        weight = self.critic_weight(inputs) * self.critic_members(inputs)
        target = self.regression_target(inputs)
        loss, bar = critic_loss(inputs.nets.critic, batch.obs, batch.action, target, weight)
        more = self.into_critic and self.into_critic(self, inputs)
        return scaled_loss("critic", loss, bar, self.critic_scale(inputs), more)

    def regression_target(self, inputs: StageInputs) -> Array:
        """y = R + γᴴ·mask·V(s'), (B,) or (E, B)."""
        batch, hyper = inputs.batch, inputs.hyper
        exponent = self.exponent(hyper.horizon)
        masks, bootstrap = self.masks(batch), self.bootstrap(inputs)
        return bootstrapped(bootstrap, batch.rewards, masks, hyper.discount, exponent)

    def _q(self, inputs: StageInputs) -> Array:
        critic = self.value_critic(inputs.nets)
        aggregation = self.value_aggregation(inputs.nets.target_critic.aggregation)
        if aggregation != critic.aggregation:
            critic = replace(critic, aggregation=aggregation)
        return dataset_q(critic, inputs.batch.obs, inputs.batch.action)

    def _value(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.iql.value_loss`."""
        assert inputs.fixed is not None
        expectile, weight = self.expectile(inputs.hyper.expectile), self.value_weight(inputs)
        loss, bar = value_regression(
            inputs.nets.value, inputs.batch.obs, inputs.fixed, weight, expectile
        )
        more = self.into_value and self.into_value(self, inputs)
        return scaled_loss("value", loss, bar, self.value_scale(inputs), more)


def scaled_loss(
    part: str, loss: float, bar: MLPParams, scale: float, more: MLPParams | None = None
) -> Loss:
    """A loss and its gradient times a factor; `more` is added to the latter."""
    if scale != 1:
        loss, bar = loss * scale, bar.map(lambda a: a * scale)
    return loss, {part: bar if more is None else bar.map(lambda a, b: a + b, more)}
