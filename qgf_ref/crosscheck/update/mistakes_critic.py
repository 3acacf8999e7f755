"""Mistakes in training the critics and values of the paper's other methods, and after the losses.

What these critics share with the paper's agent, its bank has already. Source: baselines.md,
sections 2, 3 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.agents.critics import CriticRecipe
from qgf_ref.agents.recipe import Gradients
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.mistakes import MISTAKES
from qgf_ref.crosscheck.update.mistakes_actor import Made, of_stage
from qgf_ref.crosscheck.update.stage_changes import InputsChange, instead, kind
from qgf_ref.losses.clipping import clipped_by_norm
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams

OF_BOOTSTRAP = ("bootstrap", "into_value")
"""Ingredients that only a critic with a value has."""


class SmallestMember(MLPCritic):
    """A critic of which every member is the smallest one; where nothing is differentiated."""

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q (E, B), the same in each row."""
        q, cache = super().forward(obs, action)
        return np.broadcast_to(q.min(axis=0), q.shape), cache


def critic_mistakes(recipe: CriticRecipe) -> Made:
    """The paper's agent's, as far as the recipe has the ingredients, and those of a bootstrap."""
    names = {part.name for part in recipe.parts}
    ingredients = {f.name for f in fields(CriticRecipe)} - {"in_turn"}
    if "value" not in names:
        of_value = {name for name in ingredients if name.startswith(("value_", "expectile"))}
        ingredients -= {*OF_BOOTSTRAP, *of_value}
    if recipe.jointly:
        ingredients -= {"gradient"}  # it has clips of its own to get wrong
    shared = [m for m in MISTAKES if m.changes.keys() <= ingredients]
    own_value = recipe.value_aggregation("mean") == "min"
    if own_value:  # whatever the options say
        shared = [m for m in shared if m.name != "value-other-aggregation"]
        shared += [
            TrainingMistake(
                "value-from-mean",
                "The value follows the mean over members; official: the minimum, whatever q_agg.",
                "value", {"value_aggregation": lambda name: "mean"},
            )
        ] if "value" in names else []  # fmt: skip
    return (*shared, *_in_turn(recipe, names))


def _in_turn(recipe: CriticRecipe, names: Iterable[str]) -> Made:
    """Stages that see what earlier ones did; not where the gradients of all are clipped at once."""
    if recipe.jointly:
        return ()
    # the one that follows another first, before that has stepped
    actors = tuple(name for name in recipe.losses[::-1] if name not in ("critic", "value"))
    if "value" not in names:
        return (
            TrainingMistake(
                "actor-after-critic-step",
                "The critic steps first and the actor sees it; official: all see the old networks.",
                actors[0], {"in_turn": ("critic", *actors)},
            ),
        )  # fmt: skip
    orders = {
        "critic-after-value-step": ("critic", (*actors, "value", "critic")),
        "value-after-target-update": ("value", (*actors, "critic", "value")),
    }
    says = {m.name: m.says for m in MISTAKES}
    return tuple(
        TrainingMistake(name, says[name], first, {"in_turn": order})
        for name, (first, order) in orders.items()
    )


def next_mistakes(*more: tuple[str, str, InputsChange]) -> Made:
    """Those of a critic that bootstraps from the actor: of any, and `more` (name, says, change)."""
    shared: tuple[tuple[str, str, InputsChange], ...] = (
        (
            "next-q-online",
            "The critic bootstraps from the online critic; official: from the target critic.",
            instead("target_critic", "critic"),
        ),
        (
            "bootstrap-current-state",
            "The critic bootstraps at s; official: at s', the observation after the chunk.",
            lambda inputs: replace(inputs, batch=replace(inputs.batch, next_obs=inputs.batch.obs)),
        ),
    )
    return tuple(of_stage("critic", name, says, change) for name, says, change in (*shared, *more))


NEXT_MIN = (
    "next-q-min",
    "The critic bootstraps from the smallest member; official: from mean − rho·std.",
    kind("target_critic", SmallestMember),
)


def deviation_mistakes(
    settings: Any, next_q: Callable[[Any, StageInputs], Array]
) -> tuple[TrainingMistake, ...]:
    """Those of ρ·std, if there is a ρ."""
    if not settings.rho:
        return ()

    def bootstrap(inputs: StageInputs) -> Array:
        E = inputs.nets.target_critic.params.ensemble
        return next_q(replace(settings, rho=settings.rho * (E / max(E - 1, 1)) ** 0.5), inputs)

    return (
        TrainingMistake(
            "next-q-sample-deviation",
            "The deviation over members has the divisor E − 1 (PyTorch's default); official: E.",
            "critic", {"bootstrap": bootstrap},
        ),
        TrainingMistake(
            "next-q-without-deviation",
            "The critic bootstraps from the mean over members; official: minus rho·std.",
            "critic", {"bootstrap": partial(next_q, replace(settings, rho=0.0))},
        ),
    )  # fmt: skip


def clip_mistakes(
    trained: Sequence[str], groups: Sequence[Sequence[str]], most: float
) -> tuple[TrainingMistake, ...]:
    """Those of a joint clip of gradients: `groups` are clipped together, to `most`."""

    def grouped(name: str, says: str, *others: Sequence[str]) -> TrainingMistake:
        changed = partial(clipped_by_norm, groups=others, most=most)
        return TrainingMistake(name, says, "received", {"jointly": changed})

    def by_value(bars: Gradients, kernels: Any) -> Gradients:
        return {part: bar.map(lambda a: np.clip(a, -most, most)) for part, bar in bars.items()}

    official = "one norm of all networks" if len(groups) == 1 else "one of actors, one of critics"
    actors = tuple(part for part in trained if part not in ("critic", "value"))
    critics = tuple(part for part in trained if part in ("critic", "value"))
    made = [
        grouped(
            "clip-per-network", f"Each network's gradient is clipped alone; official: {official}.",
            *((part,) for part in trained),
        ),
        TrainingMistake(
            "clip-missing", f"Gradients are not clipped; official: to {most:g} by {official}.",
            "received", {"jointly": lambda bars, kernels: bars},
        ),
        TrainingMistake(
            "clip-by-value", f"Every entry is clipped to ±{most:g}; official: {official}.",
            "received", {"jointly": by_value},
        ),
    ]  # fmt: skip
    if len(groups) == 1 and len(critics) == 1:
        return tuple(made)  # a norm each is a norm for each network
    if len(groups) == 1:
        made.append(
            grouped(
                "clip-actor-and-critics-apart",
                f"Actor and critics are clipped by a norm each; official: {official}.",
                actors, critics,
            )
        )  # fmt: skip
    else:
        made.append(
            grouped(
                "clip-all-together",
                f"All networks are clipped by one norm; official: {official}.", trained,
            )
        )  # fmt: skip
    return tuple(made)


def followed_only_by(kept: Callable[[MLPParams], bool], recipe: CriticRecipe) -> dict[str, Any]:
    """The ingredient by which some averages stay as they are."""
    right = recipe.target

    def target(old: MLPParams, before: MLPParams, after: MLPParams, *rest: Any) -> MLPParams:
        return right(old, before, after, *rest) if kept(old) else old

    return {"target": target}
