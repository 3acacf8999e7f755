"""The bank of training mistakes that a step on a given batch, noise and times can show.

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

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistakes_update import UPDATE_MISTAKES
from qgf_ref.crosscheck.update.recipe import Given, Mistake
from qgf_ref.flow.path import interpolate
from qgf_ref.ops.ensemble import ensemble_reduce


def _over_valid_rows(given: Given) -> Array:
    valid = given.batch.valid
    return valid * (len(valid) / np.maximum(valid.sum(), 1))


def _all_rows(given: Given) -> Array:
    return np.ones_like(given.batch.valid)


def _smallest_member(given: Given) -> Array:
    nets, batch = given.nets, given.batch
    q, _ = nets.critic.forward(batch.obs, batch.action)
    return len(q) * ensemble_reduce(q, "min")[1].weight


def _next_q(critic: str, members: bool = False) -> Callable[[Given], Array]:
    def bootstrap(given: Given) -> Array:
        net = getattr(given.nets, critic)
        q, _ = net.forward(given.batch.next_obs, given.batch.action)
        return q if members else ensemble_reduce(q, net.aggregation)[0]

    return bootstrap


_HALF = "has a factor ½; the official one has none."
_ROWS = "is averaged over the valid rows; the official mean counts invalid rows as well."

LOSS_MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "velocity-sign",
        "The velocity is regressed on x0 − x1; the official target is x1 − x0, towards the action.",
        "policy",
        {"velocity_target": lambda x0, x1: x0 - x1},
    ),
    Mistake(
        "velocity-target-is-action",
        "The policy is regressed on the action x1; the official target is the velocity x1 − x0.",
        "policy",
        {"velocity_target": lambda x0, x1: x1},
    ),
    Mistake(
        "interpolation-reversed",
        "The path runs from action to noise; official: x_t = (1 − t)·noise + t·action.",
        "policy",
        {"point": lambda x0, x1, t: interpolate(x1, x0, t)},
    ),
    Mistake(
        "policy-sum-over-action",
        "The policy loss sums over action dimensions; the official one is their mean.",
        "policy",
        {"policy_scale": lambda given: given.batch.action.shape[1]},
    ),
    Mistake(
        "policy-half-loss",
        f"The policy loss {_HALF}",
        "policy",
        {"policy_scale": lambda given: 0.5},
    ),
    Mistake(
        "valid-in-policy-loss",
        "The policy loss is weighted with valid; the official one trains on invalid rows (D6).",
        "policy",
        {"policy_weight": lambda given: given.batch.valid[:, None]},
    ),
    Mistake(
        "policy-mean-over-valid-rows",
        "The policy loss averages the valid rows; the official one takes every row (D6).",
        "policy",
        {"policy_weight": lambda given: _over_valid_rows(given)[:, None]},
    ),
    Mistake(
        "valid-ignored-in-critic-loss",
        "The critic loss counts invalid rows; official: valid·(Q − y)².",
        "critic",
        {"critic_weight": _all_rows},
    ),
    Mistake(
        "critic-mean-over-valid-rows",
        f"The critic loss {_ROWS}",
        "critic",
        {"critic_weight": _over_valid_rows},
    ),
    Mistake(
        "critic-sum-over-ensemble",
        "The critic loss is summed over the ensemble; official: the mean over members and batch.",
        "critic",
        {"critic_scale": lambda given: given.nets.critic.params.ensemble},
    ),
    Mistake(
        "critic-half-loss",
        f"The critic loss {_HALF}",
        "critic",
        {"critic_scale": lambda given: 0.5},
    ),
    Mistake(
        "critic-min-over-ensemble",
        "Only the smallest member is regressed; official: every member, on the same target.",
        "critic",
        {"critic_members": _smallest_member},
    ),
    Mistake(
        "mask-ignored",
        "The target bootstraps past the end of the task; official: y = R + γᴴ·mask·V(s').",
        "critic",
        {"masks": lambda batch: np.ones_like(batch.masks)},
    ),
    Mistake(
        "mask-inverted",
        "masks are read as done flags, 1 − mask; the official mask is 0 where the task ended.",
        "critic",
        {"masks": lambda batch: 1 - batch.masks},
    ),
    Mistake(
        "discount-without-horizon",
        "The bootstrap is discounted with γ; official: γᴴ, because s' is H steps ahead.",
        "critic",
        {"exponent": lambda horizon: 1},
    ),
    Mistake(
        "bootstrap-target-q",
        "The target bootstraps from the target critic at (s', a); official: the value V(s').",
        "critic",
        {"bootstrap": _next_q("target_critic")},
    ),
    Mistake(
        "bootstrap-online-q",
        "The target bootstraps from the online critic at (s', a); official: the value V(s').",
        "critic",
        {"bootstrap": _next_q("critic")},
    ),
    Mistake(
        "bootstrap-target-q-by-member",
        "Each member has a target of its own, from its target Q; official: one target, from V(s').",
        "critic",
        {"bootstrap": _next_q("target_critic", members=True)},
    ),
    Mistake(
        "bootstrap-current-state",
        "The target bootstraps from V(s); official: V(s'), the observation after the chunk.",
        "critic",
        {"bootstrap": lambda given: given.nets.value.forward(given.batch.obs)[0]},
    ),
    Mistake(
        "critic-gradient-into-value",
        "The critic loss's gradient flows into V through the target; official: V is held fixed.",
        "grad/value",
        {"gradient_into_value": True},
    ),
    Mistake(
        "expectile-swapped",
        "Rows with Q > V weigh 1 − τ; official: they weigh τ, the others 1 − τ.",
        "value",
        {"expectile": lambda expectile: 1 - expectile},
    ),
    Mistake(
        "expectile-ignored",
        "The value loss is a plain mean square; official: rows weigh τ or 1 − τ.",
        "value",
        {"expectile": lambda expectile: 0.5, "value_scale": lambda given: 2.0},
    ),
    Mistake(
        "value-from-online-critic",
        "The value is regressed on the online critic; official: on the target critic.",
        "value",
        {"value_critic": lambda nets: nets.critic},
    ),
    Mistake(
        "value-gradient-into-critic",
        "The value loss reads the online critic and trains it; official: the target critic, fixed.",
        "value",
        {"value_critic": lambda nets: nets.critic, "gradient_into_critic": True},
    ),
    Mistake(
        "value-other-aggregation",
        "The value's members are reduced by the other of min and mean than the checkpoint says.",
        "value",
        {"value_aggregation": lambda name: "mean" if name == "min" else "min"},
    ),
    Mistake(
        "valid-ignored-in-value-loss",
        "The value loss counts invalid rows; official: valid·weight·(q − V)².",
        "value",
        {"value_weight": _all_rows},
    ),
    Mistake(
        "value-mean-over-valid-rows",
        f"The value loss {_ROWS}",
        "value",
        {"value_weight": _over_valid_rows},
    ),
    Mistake(
        "value-half-loss", f"The value loss {_HALF}", "value", {"value_scale": lambda given: 0.5}
    ),
)

MISTAKES = LOSS_MISTAKES + UPDATE_MISTAKES
"""In the order of the quantities that they change first."""
