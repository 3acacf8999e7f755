"""The paper's agent: a flow policy, an ensemble of critics with its average, and IQL's value.

Behaviour cloning and Q-learning never touch. Source: method.md, section 1; official.md, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.critics import CRITIC_PARTS, CriticRecipe, Ingredient, one, scaled_loss
from qgf_ref.agents.part import Part
from qgf_ref.agents.stage import FLOW_TIMES, NOISE, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.flow_matching import velocity_regression
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.learning import path_point

PARTS = (Part("policy", ("obs", "action", "time"), "action", acting=True), *CRITIC_PARTS)
"""In the order in which files and reports list them."""


@dataclass(frozen=True)
class IQLRecipe(CriticRecipe):
    """The update of this agent; every choice in its three losses is an ingredient.

    policy_weight () or (B, 1) and policy_scale: as of the other losses. path gives x_t and dx_t/dt,
    velocity_target the policy's target from the latter, x0 and x1.
    """

    parts: ClassVar[tuple[Part, ...]] = PARTS
    resident: bool = True

    path: Callable[[Kernels, Array, Array, Array], tuple[Array, Array]] = (
        lambda kernels, x0, x1, t: kernels(path_point, x0, x1, t)
    )
    velocity_target: Callable[[Array, Array, Array], Array] = lambda velocity, x0, x1: velocity
    policy_weight: Ingredient = one
    policy_scale: Ingredient = one

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The flow matching loss, and the critic's and the value's."""
        policy = Stage("policy", ("policy",), self._policy, draws=(NOISE, FLOW_TIMES))
        return policy, *self.critic_stages

    def _policy(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.flow_matching.flow_matching`."""
        field, batch = inputs.nets.policy, inputs.batch
        x0, x1, t = inputs.drawn["x0"], batch.action, inputs.drawn["t"]
        point, velocity = self.path(field.kernels, x0, x1, t)
        target, weight = self.velocity_target(velocity, x0, x1), self.policy_weight(inputs)
        loss, bar = velocity_regression(field, batch.obs, point, target, t, weight)
        return scaled_loss("policy", loss, bar, self.policy_scale(inputs))


RECIPE = IQLRecipe()
"""The official code's."""
IQL = FlowAgent("iql", PARTS, RECIPE, drawn_first=("critic",))
