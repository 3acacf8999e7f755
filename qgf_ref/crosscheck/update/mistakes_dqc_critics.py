"""Mistakes in what DQC's critics and value learn: distillation, backup, weights. Traps T8, T10–T14.

Source: goal_conditioned.md, sections 2 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.agents.dqc import ONLINE, TARGET, DQCRecipe, with_goal
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.mistakes_actor import Made, of_stage, other_aggregation
from qgf_ref.crosscheck.update.stage_changes import (
    InputsChange,
    adding,
    every_row_valid,
    instead,
    net,
    running,
    scaling,
)
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.activations import sigmoid
from qgf_ref.ops.logits import (
    CLIPPED,
    asymmetric_bce,
    bce,
    logit_of,
    logit_pinball,
    probability,
    reduced_logit,
)

CHUNK = "chunk_critic"
SINGLE_BOUND = float(logit_of(np.asarray(np.float32(1 - 1e-5), np.float64)))
"""11.5116: `CLIPPED` where 1 − 1e-5 is a float32 (trap T10)."""
_SUMMED = "is summed over the ensemble; official: the mean over members and batch."


def critics_mistakes(recipe: DQCRecipe) -> Made:
    """Those of the recipe's settings."""
    own = recipe.settings
    weights = (*_weights(recipe, ONLINE, own.distill_method),
               *_weights(recipe, "value", own.implicit_backup_type))  # fmt: skip
    chunk = _chunk_critic(recipe) if own.use_chunk_critic else ()
    return (*chunk, *_distillation(recipe), *_backup(recipe), *weights)


def _members(inputs: StageInputs) -> float:
    return float(inputs.nets[ONLINE].params.ensemble or 1)


def _reduced_teacher(recipe: DQCRecipe, inputs: StageInputs) -> Array:
    return reduced_logit(recipe.taught(inputs), inputs.nets[CHUNK].aggregation)


def _chunk_critic(recipe: DQCRecipe) -> Made:
    """Of the chunk critic's loss, and of it as a teacher."""
    own = recipe.settings

    def with_valid(inputs: StageInputs) -> Any:
        return {bce: lambda z, y: bce(z, y, recipe.valid(own, inputs))}

    def gradient(inputs: StageInputs) -> MLPParams:
        """Of the distillation in φ_C: ∂L/∂y = −w·z/(E·B), or ∂L/∂c = −w·sign(z − c)/(E·B)."""
        critic, obs = inputs.nets[CHUNK], with_goal(inputs)
        c, cache = critic.forward(obs, inputs.batch.action)
        z, _ = inputs.nets[ONLINE].forward(obs, recipe.chunk(inputs.batch))
        weight = np.where(c >= z, own.kappa_d, 1 - own.kappa_d) * recipe.valid(own, inputs)
        slope = -z * probability(c)[1]
        if own.distill_method == "quantile":
            slope = -np.sign(z - c) * (abs(c) < CLIPPED)
        return critic.vjp_params((weight * slope / z.size).astype(z.dtype), cache)

    return (
        TrainingMistake(
            "chunk-critic-sum-over-ensemble", f"The chunk critic's loss {_SUMMED}", CHUNK,
            stages={CHUNK: scaling(_members)},
        ),
        of_stage(
            CHUNK, "valid-in-chunk-critic-loss",
            "The chunk critic's loss is weighted with valid; official: it counts every row.",
            running(CHUNK, with_valid),
        ),
        TrainingMistake(
            "teacher-aggregated",
            "Members learn of the reduced chunk critic; official: member i of member i (T12).",
            ONLINE, {"teacher": _reduced_teacher},
        ),
        TrainingMistake(
            "teacher-differentiated",
            "The distillation's gradient flows into the chunk critic; official: it is held fixed.",
            "grad/chunk_critic", stages={CHUNK: adding(CHUNK, gradient)},
        ),
        TrainingMistake(
            "backup-from-chunk-critic",
            "The value follows the chunk critic; official: the target action critic (T13).",
            "value", {"backup": lambda inputs: _reduced_teacher(recipe, inputs)},
        ),
    )  # fmt: skip


def _distillation(recipe: DQCRecipe) -> Made:
    def bounded(z: Array, logit: Array, valid: Array, kappa: float, bound: float) -> Any:
        return logit_pinball(z, np.minimum(logit, SINGLE_BOUND), valid, kappa, bound)

    made = [
        TrainingMistake(
            "distillation-sum-over-ensemble", f"The action critic's loss {_SUMMED}", ONLINE,
            stages={ONLINE: scaling(_members)},
        )
    ]  # fmt: skip
    if recipe.settings.distill_method == "quantile":
        says = "The quantile's bound is that of a float32 1 − 1e-5, 11.5116; exactly 11.5129 (T10)."
        change = running(ONLINE, {logit_pinball: bounded})
        made.append(of_stage(ONLINE, "distillation-bound-float32", says, change))
    return tuple(made)


def _backup(recipe: DQCRecipe) -> Made:
    """Of q = agg σ(target Q_P)."""

    def of_logits(z: Array, how: str) -> Array:
        return z.mean(axis=0) if how == "mean" else reduced_logit(z, how)

    def over_batch(z: Array, how: str) -> Array:
        if len(z) > 1:
            return reduced_logit(z, how)
        return np.full_like(z[0], reduced_logit(z.T, how)[0])

    return (
        of_stage(
            "value", "backup-mean-of-logits",
            "The value follows the mean of the members' logits; official: of probabilities (T8).",
            running(TARGET, {reduced_logit: of_logits}),
        ),
        of_stage(
            "value", "backup-other-aggregation",
            "Members are reduced for the value by the other of min and mean than the checkpoint "
            "says.", net(TARGET, other_aggregation),
        ),
        of_stage(
            "value", "backup-from-online-critic",
            "The value follows the online action critic; official: its target copy (T13).",
            instead(TARGET, ONLINE),
        ),
        of_stage(
            "value", "backup-of-one-member-over-batch",
            "An ensemble of one has lost its axis: the batch is reduced; right: members (T14).",
            running(TARGET, {reduced_logit: over_batch}),
        ),
    )  # fmt: skip


Weighing = Callable[[StageInputs, Array, float], tuple[Array, float]]


def _weighing(part: str, change: Weighing) -> InputsChange:
    """The part's asymmetric loss with other weights: change(inputs, valid, κ) → (valid, κ)."""

    def swaps(inputs: StageInputs) -> Any:
        def loss(f: Any) -> Any:
            return lambda z, y, valid, kappa, *bound: f(z, y, *change(inputs, valid, kappa), *bound)

        return {f: loss(f) for f in (asymmetric_bce, logit_pinball)}

    return running(part, swaps)


def _strict(z: Array, y: Array, valid: Array, kappa: float) -> tuple[float, Array]:
    weight = np.where(y.real > sigmoid(z.real), kappa, 1 - kappa).astype(z.real.dtype)
    return bce(z, y, valid * weight)


def _weights(recipe: DQCRecipe, part: str, statistic: str) -> Made:
    """Of the asymmetric loss of the action critic, or of the value."""
    own, of = recipe.settings, {ONLINE: "distillation", "value": "backup"}[part]
    its = f"The {part.replace('_', ' ')}'s"
    bound = (CLIPPED,) if part == ONLINE else ()

    def quantile(z: Array, y: Array, *rest: Any) -> Any:
        return logit_pinball(z, logit_of(y), *rest, *bound)

    def expectile(z: Array, c: Array, valid: Array, kappa: float, *bound: float) -> Any:
        return asymmetric_bce(z, probability(c)[0], valid, kappa)

    other: dict[str, tuple[str, Any]] = {
        "expectile": ("quantile", {asymmetric_bce: quantile}),
        "quantile": ("expectile", {logit_pinball: expectile}),
    }
    name, swap = other[statistic]
    made: list[tuple[str, str, InputsChange]] = [
        (
            f"valid-ignored-in-{of}", f"{its} loss counts invalid rows; official: valid times it.",
            every_row_valid,
        ),
        (
            f"{of}-mean-over-valid-rows",
            f"{its} loss is averaged over valid rows; official: invalid ones count in the mean.",
            _weighing(part, lambda inputs, valid, kappa: (
                valid * (len(valid) / max(float(valid.sum()), 1)), kappa
            )),
        ),
        (
            f"{of}-weights-swapped",
            f"{its} loss weighs κ where the target lies below; official: where it lies above.",
            _weighing(part, lambda inputs, valid, kappa: (valid, 1 - kappa)),
        ),
        (
            f"{of}-unweighted",
            f"{its} loss is symmetric, without κ; official: κ or 1 − κ times it.",
            _weighing(part, lambda inputs, valid, kappa: (2 * valid, 0.5)),
        ),
        (
            f"{of}-other-kappa",
            f"{its} loss has the other one's κ; κ_d distils, κ_b (expectile) is the value's.",
            _weighing(part, lambda inputs, valid, kappa: (
                valid, own.kappa_d if part == "value" else inputs.hyper.expectile
            )),
        ),
        (
            f"{of}-of-{name}", f"{its} loss is that of the {name}; its setting says {statistic}.",
            running(part, swap),
        ),
    ]  # fmt: skip
    if statistic == "expectile":
        says = f"{its} loss weighs 1 − κ where the target is met exactly; official: κ (≥, T11)."
        made.append((f"{of}-strict", says, running(part, {asymmetric_bce: _strict})))
    return tuple(of_stage(part, *each) for each in made)
