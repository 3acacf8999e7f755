"""The paper's agent: a flow policy, an ensemble of critics with its average, and IQL's value.

Behaviour cloning and Q-learning never touch. Source: method.md, section 1; official.md, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.stage import FLOW_TIMES, NOISE, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch
from qgf_ref.losses.flow_matching import velocity_regression
from qgf_ref.losses.iql import bootstrapped, critic_loss, dataset_q, value_regression
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.learning import path_point

PARTS = (
    Part("policy", ("obs", "action", "time"), "action", acting=True),
    Part("critic", ("obs", "action"), "scalar", ensemble=True),
    Part("target_critic", ("obs", "action"), "scalar", True, target_of="critic", acting=True),
    Part("value", ("obs",), "scalar"),
)
"""In the order in which files and reports list them."""

Ingredient = Callable[[StageInputs], Any]


def _one(inputs: StageInputs) -> float:
    del inputs
    return 1.0


def _valid(inputs: StageInputs) -> Array:
    return inputs.batch.valid


@dataclass(frozen=True)
class IQLRecipe(Recipe):
    """The update of this agent; every choice in its three losses is an ingredient.

    Weights multiply the squared error *inside* the mean over all its elements, invalid rows
    included: policy_weight () or (B, 1), critic_weight (B,) or (E, B), value_weight (B,); scales
    are plain factors of the loss. path gives x_t and dx_t/dt, velocity_target the policy's target
    from the latter, x0 and x1; bootstrap is V(s') of the critic's target, (B,) or (E, B) for
    members of their own. into_critic and into_value are gradients that other losses leave in these
    two networks: none.
    """

    parts: ClassVar[tuple[Part, ...]] = PARTS

    path: Callable[[Kernels, Array, Array, Array], tuple[Array, Array]] = (
        lambda kernels, x0, x1, t: kernels(path_point, x0, x1, t)
    )
    velocity_target: Callable[[Array, Array, Array], Array] = lambda velocity, x0, x1: velocity
    policy_weight: Ingredient = _one
    policy_scale: Ingredient = _one

    bootstrap: Ingredient = lambda inputs: inputs.nets.value.forward(inputs.batch.next_obs)[0]
    masks: Callable[[Batch], Array] = lambda batch: batch.masks
    exponent: Callable[[int], int] = lambda horizon: horizon
    critic_weight: Ingredient = _valid
    critic_members: Ingredient = _one
    critic_scale: Ingredient = _one
    into_critic: Callable[[Any, StageInputs], MLPParams] | None = None

    value_critic: Callable[[Networks], MLPCritic] = lambda nets: nets.target_critic
    value_aggregation: Callable[[str], str] = lambda name: name
    value_weight: Ingredient = _valid
    value_scale: Ingredient = _one
    expectile: Callable[[float], float] = lambda expectile: expectile
    into_value: Callable[[Any, StageInputs], MLPParams] | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The flow matching loss, the critic's regression, the value's expectile regression."""
        return (
            Stage("policy", ("policy",), self._policy, draws=(NOISE, FLOW_TIMES)),
            Stage("critic", ("critic",), self._critic, reads=("value",)),
            Stage("value", ("value",), self._value, reads=("target_critic",), fixed=self._q),
        )

    def held_out(self, inputs: StageInputs) -> dict[str, float]:
        """The mean of the target critic at the data's actions."""
        batch = inputs.batch
        q = dataset_q(inputs.nets.target_critic, batch.obs, batch.action)
        return {"q": float(q.mean())}

    def _policy(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.flow_matching.flow_matching`."""
        field, batch = inputs.nets.policy, inputs.batch
        x0, x1, t = inputs.drawn["x0"], batch.action, inputs.drawn["t"]
        point, velocity = self.path(field.kernels, x0, x1, t)
        target, weight = self.velocity_target(velocity, x0, x1), self.policy_weight(inputs)
        loss, bar = velocity_regression(field, batch.obs, point, target, t, weight)
        return _scaled("policy", loss, bar, self.policy_scale(inputs))

    def _critic(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.iql.critic_loss` on `regression_target`."""
        batch = inputs.batch
        weight = self.critic_weight(inputs) * self.critic_members(inputs)
        target = self.regression_target(inputs)
        loss, bar = critic_loss(inputs.nets.critic, batch.obs, batch.action, target, weight)
        more = self.into_critic and self.into_critic(self, inputs)
        return _scaled("critic", loss, bar, self.critic_scale(inputs), more)

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
        return _scaled("value", loss, bar, self.value_scale(inputs), more)


def _scaled(
    part: str, loss: float, bar: MLPParams, scale: float, more: MLPParams | None = None
) -> Loss:
    if scale != 1:
        loss, bar = loss * scale, bar.map(lambda a: a * scale)
    return loss, {part: bar if more is None else bar.map(lambda a, b: a + b, more)}


RECIPE = IQLRecipe()
"""The official code's."""
IQL = FlowAgent("iql", PARTS, RECIPE, drawn_first=("critic",))
