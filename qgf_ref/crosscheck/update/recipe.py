"""The training update as a recipe whose every ingredient can be another one.

The calculus is the reference's own (`qgf_ref.losses`): a recipe only says what goes into it. The
recipe with its defaults computes the bits of `qgf_ref.losses.update.update`; the mistakes of
`qgf_ref.crosscheck.update.mistakes` replace one or two ingredients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.path import interpolate, velocity_target
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.losses.flow_matching import velocity_regression
from qgf_ref.losses.iql import critic_loss, value_loss
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp

LEARNED = ("policy", "critic", "value")
NETWORKS = (*LEARNED, "target_critic")


@dataclass(frozen=True)
class Given:
    """What an ingredient may look at: networks as they stand, batch, hyperparameters."""

    nets: Networks
    batch: Batch
    hyper: Hyperparameters


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training update; the defaults are the reference's.

    Weights multiply the squared error *inside* the mean over all its elements, invalid rows
    included: policy_weight () or (B, 1), critic_weight (B,) or (E, B), value_weight (B,); scales
    are plain factors of the loss. bootstrap is V(s') of the target, (B,) or (E, B) for members of
    their own. `order` lists the stages of an update; `sequential` ones see what earlier ones did.
    """

    point: Callable[[Array, Array, Array], Array] = interpolate
    velocity_target: Callable[[Array, Array], Array] = velocity_target
    policy_weight: Callable[[Given], Any] = lambda given: 1.0
    policy_scale: Callable[[Given], float] = lambda given: 1.0

    bootstrap: Callable[[Given], Array] = lambda given: given.nets.value.forward(
        given.batch.next_obs
    )[0]
    masks: Callable[[Batch], Array] = lambda batch: batch.masks
    exponent: Callable[[int], int] = lambda horizon: horizon
    critic_weight: Callable[[Given], Array] = lambda given: given.batch.valid
    critic_members: Callable[[Given], Any] = lambda given: 1.0
    critic_scale: Callable[[Given], float] = lambda given: 1.0

    value_critic: Callable[[Networks], MLPCritic] = lambda nets: nets.target_critic
    value_aggregation: Callable[[str], str] = lambda name: name
    value_weight: Callable[[Given], Array] = lambda given: given.batch.valid
    value_scale: Callable[[Given], float] = lambda given: 1.0
    expectile: Callable[[float], float] = lambda expectile: expectile

    gradient_into_value: bool = False
    gradient_into_critic: bool = False

    gradient: Callable[[MLPParams, MLPParams], MLPParams] = lambda params, bar: bar
    decay: float = 0.0
    adam: Callable[..., tuple[MLPParams, AdamState]] = adam
    learning_rate: Callable[[float], float] = lambda rate: rate
    target: Callable[[MLPParams, MLPParams, MLPParams, float], MLPParams] = (
        lambda target, before, after, tau: target_update(target, before, tau)
    )
    order: tuple[str, ...] = NETWORKS
    sequential: bool = False


REFERENCE = Recipe()


@dataclass(frozen=True, eq=False)
class Mistake:
    """One plausible mistake.

    says     what is wrong and what the official code does, one sentence
    first    the first quantity that it changes, in the order losses, gradients, parameters;
             "params" if it changes those of every network
    changes  the ingredients of `Recipe` that it replaces
    """

    name: str
    says: str
    first: str
    changes: Mapping[str, Any] = field(repr=False)

    @property
    def recipe(self) -> Recipe:
        """The reference with this mistake in it."""
        return replace(REFERENCE, **self.changes)


def combined(mistakes: Iterable[Mistake]) -> Recipe | None:
    """The reference with several mistakes in it; None where two replace the same ingredient."""
    changes: dict[str, Any] = {}
    for mistake in mistakes:
        if changes.keys() & mistake.changes.keys():
            return None
        changes |= mistake.changes
    return replace(REFERENCE, **changes)


def critic_target(recipe: Recipe, given: Given) -> Array:
    """y = R + γᴴ·mask·V(s'), (B,) or (E, B)."""
    batch, hyper = given.batch, given.hyper
    scale = hyper.discount ** recipe.exponent(hyper.horizon)
    return batch.rewards + scale * recipe.masks(batch) * recipe.bootstrap(given)


def regression(
    recipe: Recipe, network: str, given: Given, x0: Array, t: Array
) -> tuple[float, MLPParams]:
    """The loss of "policy", "critic" or "value", and what reaches that network's optimiser."""
    nets, batch = given.nets, given.batch
    if network == "policy":
        point, target = recipe.point(x0, batch.action, t), recipe.velocity_target(x0, batch.action)
        weight = recipe.policy_weight(given)
        found = velocity_regression(nets.policy, batch.obs, point, target, t, weight)
        return _scaled(found, recipe.policy_scale(given))
    if network == "critic":
        weight = recipe.critic_weight(given) * recipe.critic_members(given)
        y = critic_target(recipe, given)
        found = critic_loss(nets.critic, batch.obs, batch.action, y, weight)
        loss, bar = _scaled(found, recipe.critic_scale(given))
        return (
            (loss, _plus(bar, _value_to_critic(recipe, given)))
            if (recipe.gradient_into_critic)
            else (loss, bar)
        )
    critic = replace(
        recipe.value_critic(nets),
        aggregation=recipe.value_aggregation(nets.target_critic.aggregation),
    )
    expectile, weight = recipe.expectile(given.hyper.expectile), recipe.value_weight(given)
    found = value_loss(nets.value, critic, batch.obs, batch.action, weight, expectile)
    loss, bar = _scaled(found, recipe.value_scale(given))
    return (
        (loss, _plus(bar, _critic_to_value(recipe, given)))
        if (recipe.gradient_into_value)
        else (loss, bar)
    )


@dataclass(frozen=True)
class Outcome:
    """Losses and gradients of the first update, parameters after the last, by network."""

    losses: dict[str, float]
    gradients: dict[str, MLPParams]
    params: dict[str, MLPParams]


def run(
    recipe: Recipe,
    nets: Networks,
    batch: Batch,
    x0: Array,
    t: Array,
    hyper: Hyperparameters,
    updates: int,
) -> Outcome:
    """`updates` updates on one batch from fresh optimisers; x0 (max(updates, 1), B, D), t alike.

    With 0 updates, losses and gradients alone.
    """
    if not updates:
        given = Given(nets, batch, hyper)
        found = {name: regression(recipe, name, given, x0[0], t[0]) for name in LEARNED}
        return Outcome(*_split(found), params={})
    moments = {name: AdamState.zero(getattr(nets, name).params) for name in LEARNED}
    first: dict[str, tuple[float, MLPParams]] = {}
    for n in range(updates):
        nets, found = _update(recipe, nets, batch, x0[n], t[n], hyper, moments)
        first = first or found
    params = {name: getattr(nets, name).params for name in NETWORKS}
    return Outcome(*_split(first), params)


def _update(
    recipe: Recipe,
    before: Networks,
    batch: Batch,
    x0: Array,
    t: Array,
    hyper: Hyperparameters,
    moments: dict[str, AdamState],
) -> tuple[Networks, dict[str, tuple[float, MLPParams]]]:
    found, now = {}, before
    rate = recipe.learning_rate(hyper.learning_rate)
    for name in recipe.order:
        if name == "target_critic":
            seen = now if recipe.sequential else before
            params = recipe.target(
                before.target_critic.params, seen.critic.params, now.critic.params, hyper.tau
            )
        else:
            given = Given(now if recipe.sequential else before, batch, hyper)
            found[name] = regression(recipe, name, given, x0, t)
            old = getattr(before, name).params
            bar = recipe.gradient(old, found[name][1])
            if recipe.decay:
                old = old.map(lambda p: p * (1 - rate * recipe.decay))
            params, moments[name] = recipe.adam(old, bar, moments[name], rate)
        now = replace(now, **{name: replace(getattr(now, name), params=params)})
    return now, found


def _critic_to_value(recipe: Recipe, given: Given) -> MLPParams:
    """The critic loss's gradient in ψ, if V(s') is not held fixed."""
    nets, batch, hyper = given.nets, given.batch, given.hyper
    error = nets.critic.forward(batch.obs, batch.action)[0] - critic_target(recipe, given)
    weight = recipe.critic_weight(given) * recipe.critic_members(given)
    y_bar = (weight * error * (-2 / error.size)).sum(axis=0) * recipe.critic_scale(given)
    scale = hyper.discount ** recipe.exponent(hyper.horizon)
    _, cache = nets.value.forward(batch.next_obs)
    return nets.value.vjp_params(scale * recipe.masks(batch) * y_bar, cache)


def _value_to_critic(recipe: Recipe, given: Given) -> MLPParams:
    """The value loss's gradient in φ, if it reads the online critic and does not hold it fixed."""
    nets, batch = given.nets, given.batch
    members, cache = nets.critic.forward(batch.obs, batch.action)
    name = recipe.value_aggregation(nets.critic.aggregation)
    q, reduced = ensemble_reduce(members, name)
    advantage = q - nets.value.forward(batch.obs)[0]
    expectile = recipe.expectile(given.hyper.expectile)
    weight = recipe.value_weight(given) * np.where(advantage > 0, expectile, 1 - expectile)
    q_bar = (weight * advantage * (2 / advantage.size) * recipe.value_scale(given)).astype(q.dtype)
    return nets.critic.vjp_params(ensemble_reduce_vjp(q_bar, reduced), cache)


def _scaled(found: tuple[float, MLPParams], scale: float) -> tuple[float, MLPParams]:
    loss, bar = found
    return found if scale == 1 else (loss * scale, bar.map(lambda a: a * scale))


def _plus(a: MLPParams, b: MLPParams) -> MLPParams:
    return a.map(lambda x, y: x + y, b)


def _split(
    found: dict[str, tuple[float, MLPParams]],
) -> tuple[dict[str, float], dict[str, MLPParams]]:
    return (
        {name: loss for name, (loss, _) in found.items()},
        {name: bar for name, (_, bar) in found.items()},
    )
