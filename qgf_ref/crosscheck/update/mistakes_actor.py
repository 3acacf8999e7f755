"""Mistakes in training EDP's flow and FQL's two. Source: baselines.md, sections 4, 5 and 10."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.edp import EDPRecipe
from qgf_ref.agents.fql import CLONE, ONE_STEP, FQLRecipe
from qgf_ref.agents.stage import Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.stage_changes import (
    MASK_DROPPED,
    MINIMUM,
    PATH_REVERSED,
    TOWARDS_ACTION,
    UNCLIPPED,
    VELOCITY_REVERSED,
    InputsChange,
    Primitives,
    StageChange,
    adding,
    every_row_valid,
    instead,
    kind,
    net,
    running,
    seeing,
    weighted,
)
from qgf_ref.flow.path import time_grid
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.learning import squared_error

Made = tuple[TrainingMistake, ...]


def of_stage(stage: str, name: str, says: str, *changes: InputsChange) -> TrainingMistake:
    """A mistake of one stage, first seen in its loss."""
    return TrainingMistake(name, says, stage, stages={stage: seeing(*changes)})


def cloning_mistakes(part: str, valid: bool) -> Made:
    """Those of the stage and network `part`, whose loss matches a flow to the data.

    valid  whether the right loss leaves invalid rows out
    """
    return (
        of_stage(
            part, "velocity-sign",
            "The velocity is regressed on x0 − x1; the official target is x1 − x0, towards the "
            "action.", running(part, VELOCITY_REVERSED),
        ),
        of_stage(
            part, "velocity-target-is-action",
            "The flow is regressed on the action x1; the official target is the velocity x1 − x0.",
            running(part, TOWARDS_ACTION),
        ),
        of_stage(
            part, "interpolation-reversed",
            "The path runs from action to noise; official: x_t = (1 − t)·noise + t·action.",
            running(part, PATH_REVERSED),
        ),
        *((
            of_stage(
                part, "valid-ignored-in-cloning",
                "The flow's cloning counts invalid rows; official: valid·(v − (a − x0))².",
                every_row_valid,
            ),
        ) if valid else ()),
    )  # fmt: skip


def without_weight(recipe: Any, stage: str, setting: str) -> Made:
    """That the setting, a weight of cloning, is forgotten, if it is not 1."""
    if getattr(recipe.settings, setting) == 1:
        return ()
    changed = {"settings": replace(recipe.settings, **{setting: 1.0})}
    says = f"Cloning has no weight in the actor's loss; official: {setting} times it."
    return (TrainingMistake("cloning-without-weight", says, stage, changed),)


def other_aggregation(network: Any, inputs: StageInputs) -> Any:
    """The critic, whose members are reduced by the other of min and mean."""
    del inputs
    return replace(network, aggregation="mean" if network.aggregation == "min" else "min")


class _UnscaledTime(MLPVelocity):
    """Embeds t where 10⁴·t is meant."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        return super().forward(obs, action, np.asarray(time) / 10000)


def edp_mistakes(recipe: EDPRecipe) -> Made:
    """Those of the policy's loss."""

    def scaled_cloning(scale: Callable[[StageInputs], Any]) -> Callable[[StageInputs], Primitives]:
        return lambda inputs: {squared_error: weighted(lambda of: of * scale(inputs))}

    def valid_in_q(stage: Stage) -> Stage:
        """−mean valid·q is the term of the valid rows, in its share."""
        climbing = replace(recipe, settings=replace(recipe.settings, bc_weight=0.0)).stages[0]

        def loss(inputs: StageInputs) -> Any:
            kept = inputs.batch.valid > 0
            some = replace(
                inputs, batch=inputs.batch.rows(kept),
                drawn={**inputs.drawn, **{n: inputs.drawn[n][kept] for n in ("x0", "t")}},
            )  # fmt: skip
            every = [(1.0, stage, inputs), (-1.0, climbing, inputs), (kept.mean(), climbing, some)]
            made = [(scale, *of.loss(seen)) for scale, of, seen in every]
            bars = [bar["policy"].map(lambda a, s=scale: s * a) for scale, _, bar in made]
            total = bars[0].map(lambda a, b, c: a + b + c, *bars[1:])
            return sum(scale * value for scale, value, _ in made), {"policy": total}

        return replace(stage, loss=loss)

    return (
        of_stage(
            "policy", "actor-online-critic",
            "The actor climbs the online critic; the official one climbs the target critic.",
            instead("target_critic", "critic"),
        ),
        of_stage(
            "policy", "actor-other-aggregation",
            "The actor climbs the other of min and mean over members than the checkpoint says.",
            net("target_critic", other_aggregation),
        ),
        TrainingMistake(
            "actor-clip-mask-dropped",
            "Q's gradient passes the clip of the one-step estimate where that is outside ±1; "
            "official: 0 there.",
            "grad/policy", stages={"policy": seeing(running("target_critic", MASK_DROPPED))},
        ),
        of_stage(
            "policy", "actor-query-unclipped",
            "Q is asked at the one-step estimate as it is; official: at the estimate clipped to "
            "±1.", running("target_critic", UNCLIPPED),
        ),
        of_stage(
            "policy", "valid-in-cloning",
            "The cloning term is weighted with valid; the official one counts invalid rows (D6).",
            running("policy", scaled_cloning(lambda inputs: inputs.batch.valid[:, None])),
        ),
        TrainingMistake(
            "valid-in-actor-q",
            "The actor's Q is weighted with valid; the official one counts invalid rows (D6).",
            "policy", stages={"policy": valid_in_q},
        ),
        *without_weight(recipe, "policy", "bc_weight"),
        of_stage(
            "policy", "cloning-sum-over-action",
            "The cloning term sums over action dimensions; the official one is their mean.",
            running("policy", scaled_cloning(lambda inputs: inputs.batch.action.shape[1])),
        ),
        of_stage(
            "policy", "time-unscaled",
            "t itself is embedded; official: the sines and cosines are those of 10⁴·t.",
            kind("policy", _UnscaledTime),
        ),
        *cloning_mistakes("policy", valid=False),
    )  # fmt: skip


def _through_flow(recipe: FQLRecipe) -> Callable[[StageInputs], MLPParams]:
    """The gradient of α·L_D in the cloned flow, if the flow's endpoint is not held fixed."""

    def gradient(inputs: StageInputs) -> MLPParams:
        nets, batch, z = inputs.nets, inputs.batch, inputs.drawn["z"]
        field, T, action = nets[CLONE], inputs.hyper.denoise_steps, z
        caches: list[Any] = []
        for time in time_grid(T, field.embedding)[:T]:
            velocity, cache = field.forward(batch.obs, action, time)
            action, caches = action + velocity / T, [*caches, cache]
        end, mask = clip(action)
        away = end - nets[ONE_STEP].forward(batch.obs, z)[0]
        size = recipe.settings.alpha * 2 / away.size
        action_bar = clip_vjp(size * batch.valid[:, None] * away, mask)
        bars = []
        for cache in reversed(caches):
            bars.append(field.vjp_params(action_bar / T, cache))
            action_bar = action_bar + field.vjp(action_bar / T, cache)
        return bars[0].map(lambda *each: sum(each), *bars[1:])

    return gradient


def _clipped_error(y: Array, target: Array, weight: Any) -> tuple[float, Array]:
    inside, mask = clip(y)
    loss, bar = squared_error(inside, target, weight)
    return loss, clip_vjp(bar, mask)


def fql_mistakes(recipe: FQLRecipe) -> Made:
    """Those of the cloning's and the one-step policy's losses."""

    def following(name: str, says: str, *changes: InputsChange) -> TrainingMistake:
        return of_stage(ONE_STEP, name, says, *changes)

    def error(weight: Callable[[Array], Any]) -> Primitives:
        return {squared_error: weighted(weight)}

    def right_rows(inputs: StageInputs) -> Primitives:
        valid = inputs.batch.valid[:, None]
        return {squared_error: weighted(lambda ones: valid)}

    dropped: StageChange = seeing(running("critic", MASK_DROPPED))
    return (
        *cloning_mistakes(CLONE, valid=True),
        following(
            "actor-target-critic",
            "The one-step policy climbs the target critic; the official one climbs the online one.",
            instead("critic", "target_critic"),
        ),
        following(
            "actor-min",
            "The one-step policy climbs the smallest member; official: their mean, whatever q_agg.",
            running("critic", MINIMUM),
        ),
        TrainingMistake(
            "actor-clip-mask-dropped",
            "Q's gradient passes the clip of the one-step action where that is outside ±1; "
            "official: 0 there.",
            f"grad/{ONE_STEP}", stages={ONE_STEP: dropped},
        ),
        following(
            "actor-query-unclipped",
            "Q is asked at the one-step action as it is; official: at the action clipped to ±1.",
            running("critic", UNCLIPPED),
        ),
        following(
            "one-step-clipped",
            "The one-step action is clipped before it is compared with the flow's endpoint; "
            "official: it is not.", running(ONE_STEP, {squared_error: _clipped_error}),
        ),
        following(
            "endpoint-unclipped",
            "The flow's endpoint is followed as it is; official: clipped to ±1.",
            running(CLONE, UNCLIPPED),
        ),
        TrainingMistake(
            "endpoint-differentiated",
            "The distillation's gradient flows through the Euler steps into the cloned flow; "
            "official: the endpoint is held fixed.",
            f"grad/{CLONE}", stages={CLONE: adding(CLONE, _through_flow(recipe))},
        ),
        following(
            "valid-ignored-in-distillation",
            "The distillation counts invalid rows; official: valid·(μ − a*)².",
            running(ONE_STEP, error(np.ones_like)),
        ),
        following(
            "valid-ignored-in-actor-q",
            "The actor's Q counts invalid rows; official: valid·q.",
            running(ONE_STEP, right_rows), every_row_valid,
        ),
        following(
            "distillation-sum-over-action",
            "The distillation is a squared norm, as in the paper; official: a mean over D.",
            running(
                ONE_STEP,
                lambda inputs: error(lambda valid: valid * inputs.batch.action.shape[1]),
            ),
        ),
        *without_weight(recipe, ONE_STEP, "alpha"),
    )  # fmt: skip
