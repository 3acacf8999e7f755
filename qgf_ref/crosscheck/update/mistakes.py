"""The bank of training mistakes that a step on a inputs batch, noise and times can show.

Each is the reference's recipe with one ingredient replaced (mutants.md, section E). Out of reach,
because batch, noise, times and initial parameters are given, not made:

    E1         the distribution of t                E22       the initial parameters
    E9, E11    rewards of a chunk not discounted, next observation after one step: a batch holds
               the discounted sum and the last observation already
    E23–E29    what the data loader does: action clip, masks, windows, rewards
    E10, half  bootstrapping from a *target value* network, which a checkpoint does not have
    E30        low precision is no formula: it is reported as an unknown disagreement of its size
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qgf_ref.agents.iql import RECIPE, IQLRecipe
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingBank, TrainingMistake
from qgf_ref.crosscheck.update.mistakes_update import UPDATE_MISTAKES
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.learning import path_point


def _over_valid_rows(inputs: StageInputs) -> Array:
    valid = inputs.batch.valid
    return valid * (len(valid) / np.maximum(valid.sum(), 1))


def _all_rows(inputs: StageInputs) -> Array:
    return np.ones_like(inputs.batch.valid)


def _smallest_member(inputs: StageInputs) -> Array:
    nets, batch = inputs.nets, inputs.batch
    q, _ = nets.critic.forward(batch.obs, batch.action)
    return len(q) * ensemble_reduce(q, "min")[1].weight


def _next_q(critic: str, members: bool = False) -> Callable[[StageInputs], Array]:
    def bootstrap(inputs: StageInputs) -> Array:
        net = getattr(inputs.nets, critic)
        q, _ = net.forward(inputs.batch.next_obs, inputs.batch.action)
        return q if members else ensemble_reduce(q, net.aggregation)[0]

    return bootstrap


def _reversed_path(kernels: Kernels, x0: Array, x1: Array, t: Array) -> tuple[Array, Array]:
    return kernels(path_point, x1, x0, t)[0], kernels(path_point, x0, x1, t)[1]


def _critic_to_value(recipe: IQLRecipe, inputs: StageInputs) -> MLPParams:
    """The critic loss's gradient in ψ, if V(s') is not held fixed."""
    nets, batch, hyper = inputs.nets, inputs.batch, inputs.hyper
    error = nets.critic.forward(batch.obs, batch.action)[0] - recipe.regression_target(inputs)
    weight = recipe.critic_weight(inputs) * recipe.critic_members(inputs)
    y_bar = (weight * error * (-2 / error.size)).sum(axis=0) * recipe.critic_scale(inputs)
    scale = hyper.discount ** recipe.exponent(hyper.horizon)
    _, cache = nets.value.forward(batch.next_obs)
    return nets.value.vjp_params(scale * recipe.masks(batch) * y_bar, cache)


def _value_to_critic(recipe: IQLRecipe, inputs: StageInputs) -> MLPParams:
    """The value loss's gradient in φ, if it reads the online critic and does not hold it fixed."""
    nets, batch = inputs.nets, inputs.batch
    members, cache = nets.critic.forward(batch.obs, batch.action)
    name = recipe.value_aggregation(nets.critic.aggregation)
    q, reduced = ensemble_reduce(members, name)
    advantage = q - nets.value.forward(batch.obs)[0]
    expectile = recipe.expectile(inputs.hyper.expectile)
    weight = recipe.value_weight(inputs) * np.where(advantage > 0, expectile, 1 - expectile)
    scale = 2 / advantage.size * recipe.value_scale(inputs)
    q_bar = (weight * advantage * scale).astype(q.dtype)
    return nets.critic.vjp_params(ensemble_reduce_vjp(q_bar, reduced), cache)


_HALF = "has a factor ½; the official one has none."
_ROWS = "is averaged over the valid rows; the official mean counts invalid rows as well."

LOSS_MISTAKES: tuple[TrainingMistake, ...] = (
    TrainingMistake(
        "velocity-sign",
        "The velocity is regressed on x0 − x1; the official target is x1 − x0, towards the action.",
        "policy",
        {"velocity_target": lambda velocity, x0, x1: -velocity},
    ),
    TrainingMistake(
        "velocity-target-is-action",
        "The policy is regressed on the action x1; the official target is the velocity x1 − x0.",
        "policy",
        {"velocity_target": lambda velocity, x0, x1: x1},
    ),
    TrainingMistake(
        "interpolation-reversed",
        "The path runs from action to noise; official: x_t = (1 − t)·noise + t·action.",
        "policy",
        {"path": _reversed_path},
    ),
    TrainingMistake(
        "policy-sum-over-action",
        "The policy loss sums over action dimensions; the official one is their mean.",
        "policy",
        {"policy_scale": lambda inputs: inputs.batch.action.shape[1]},
    ),
    TrainingMistake(
        "policy-half-loss",
        f"The policy loss {_HALF}",
        "policy",
        {"policy_scale": lambda inputs: 0.5},
    ),
    TrainingMistake(
        "valid-in-policy-loss",
        "The policy loss is weighted with valid; the official one trains on invalid rows (D6).",
        "policy",
        {"policy_weight": lambda inputs: inputs.batch.valid[:, None]},
    ),
    TrainingMistake(
        "policy-mean-over-valid-rows",
        "The policy loss averages the valid rows; the official one takes every row (D6).",
        "policy",
        {"policy_weight": lambda inputs: _over_valid_rows(inputs)[:, None]},
    ),
    TrainingMistake(
        "valid-ignored-in-critic-loss",
        "The critic loss counts invalid rows; official: valid·(Q − y)².",
        "critic",
        {"critic_weight": _all_rows},
    ),
    TrainingMistake(
        "critic-mean-over-valid-rows",
        f"The critic loss {_ROWS}",
        "critic",
        {"critic_weight": _over_valid_rows},
    ),
    TrainingMistake(
        "critic-sum-over-ensemble",
        "The critic loss is summed over the ensemble; official: the mean over members and batch.",
        "critic",
        {"critic_scale": lambda inputs: inputs.nets.critic.params.ensemble},
    ),
    TrainingMistake(
        "critic-half-loss",
        f"The critic loss {_HALF}",
        "critic",
        {"critic_scale": lambda inputs: 0.5},
    ),
    TrainingMistake(
        "critic-min-over-ensemble",
        "Only the smallest member is regressed; official: every member, on the same target.",
        "critic",
        {"critic_members": _smallest_member},
    ),
    TrainingMistake(
        "mask-ignored",
        "The target bootstraps past the end of the task; official: y = R + γᴴ·mask·V(s').",
        "critic",
        {"masks": lambda batch: np.ones_like(batch.masks)},
    ),
    TrainingMistake(
        "mask-inverted",
        "masks are read as done flags, 1 − mask; the official mask is 0 where the task ended.",
        "critic",
        {"masks": lambda batch: 1 - batch.masks},
    ),
    TrainingMistake(
        "discount-without-horizon",
        "The bootstrap is discounted with γ; official: γᴴ, because s' is H steps ahead.",
        "critic",
        {"exponent": lambda horizon: 1},
    ),
    TrainingMistake(
        "bootstrap-target-q",
        "The target bootstraps from the target critic at (s', a); official: the value V(s').",
        "critic",
        {"bootstrap": _next_q("target_critic")},
    ),
    TrainingMistake(
        "bootstrap-online-q",
        "The target bootstraps from the online critic at (s', a); official: the value V(s').",
        "critic",
        {"bootstrap": _next_q("critic")},
    ),
    TrainingMistake(
        "bootstrap-target-q-by-member",
        "Each member has a target of its own, from its target Q; official: one target, from V(s').",
        "critic",
        {"bootstrap": _next_q("target_critic", members=True)},
    ),
    TrainingMistake(
        "bootstrap-current-state",
        "The target bootstraps from V(s); official: V(s'), the observation after the chunk.",
        "critic",
        {"bootstrap": lambda inputs: inputs.nets.value.forward(inputs.batch.obs)[0]},
    ),
    TrainingMistake(
        "critic-gradient-into-value",
        "The critic loss's gradient flows into V through the target; official: V is held fixed.",
        "grad/value",
        {"into_value": _critic_to_value},
    ),
    TrainingMistake(
        "expectile-swapped",
        "Rows with Q > V weigh 1 − τ; official: they weigh τ, the others 1 − τ.",
        "value",
        {"expectile": lambda expectile: 1 - expectile},
    ),
    TrainingMistake(
        "expectile-ignored",
        "The value loss is a plain mean square; official: rows weigh τ or 1 − τ.",
        "value",
        {"expectile": lambda expectile: 0.5, "value_scale": lambda inputs: 2.0},
    ),
    TrainingMistake(
        "value-from-online-critic",
        "The value is regressed on the online critic; official: on the target critic.",
        "value",
        {"value_critic": lambda nets: nets.critic},
    ),
    TrainingMistake(
        "value-gradient-into-critic",
        "The value loss reads the online critic and trains it; official: the target critic, fixed.",
        "value",
        {"value_critic": lambda nets: nets.critic, "into_critic": _value_to_critic},
    ),
    TrainingMistake(
        "value-other-aggregation",
        "The value's members are reduced by the other of min and mean than the checkpoint says.",
        "value",
        {"value_aggregation": lambda name: "mean" if name == "min" else "min"},
    ),
    TrainingMistake(
        "valid-ignored-in-value-loss",
        "The value loss counts invalid rows; official: valid·weight·(q − V)².",
        "value",
        {"value_weight": _all_rows},
    ),
    TrainingMistake(
        "value-mean-over-valid-rows",
        f"The value loss {_ROWS}",
        "value",
        {"value_weight": _over_valid_rows},
    ),
    TrainingMistake(
        "value-half-loss", f"The value loss {_HALF}", "value", {"value_scale": lambda inputs: 0.5}
    ),
)

MISTAKES = LOSS_MISTAKES + UPDATE_MISTAKES
IQL_BANK = TrainingBank(RECIPE, MISTAKES)
