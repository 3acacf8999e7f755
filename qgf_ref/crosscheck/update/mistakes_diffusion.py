"""Mistakes in training DAC's and QSM's noise predictor. Source: baselines.md, sections 7 and 10."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.agents.diffusion import ACTOR, DiffusionRecipe, next_q
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.noise_predictor import SIN_FIRST, ActivatedEncoder
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.mistakes_actor import Made, of_stage, without_weight
from qgf_ref.crosscheck.update.mistakes_critic import (
    NEXT_MIN,
    clip_mistakes,
    deviation_mistakes,
    next_mistakes,
)
from qgf_ref.crosscheck.update.stage_changes import (
    InputsChange,
    Primitives,
    drawing,
    every_row_valid,
    instead,
    kind,
    net,
    running,
    seeing,
)
from qgf_ref.flow.diffusion import SamplerClips, vp_schedule
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.fourier import fourier_features
from qgf_ref.ops.learning import squared_error

SAMPLERS = {
    "clip-before": SamplerClips(before=True),
    "clip-after": SamplerClips(after=True),
    "no-clip": SamplerClips(),
}
"""How the sampler may clip, by the names of the mistakes."""


class _ClippedCritic(MLPCritic):
    """Is asked at the clipped action; its gradient is the one there."""

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        return super().forward(obs, clip(action)[0])


class _MaskedCritic(MLPCritic):
    """Q(s, c(a)), differentiated through the clip."""

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        inside, mask = clip(action)
        q, cache = super().forward(obs, inside)
        return q, (cache, mask)

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        return clip_vjp(super().vjp(q_bar, cache[0]), cache[1])


class _MeanCritic(MLPCritic):
    """Its gradient is that of the batch's mean."""

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        return super().vjp(q_bar / q_bar.shape[-1], cache)


def _fraction(inputs: StageInputs) -> Primitives:
    T = inputs.hyper.denoise_steps
    return {fourier_features: lambda k, w: fourier_features(k / T, w)}


def _mish(network: Any, inputs: StageInputs) -> Any:
    del inputs
    return replace(network, options=replace(network.options, activation="mish"))


def _without_valid(cloning: bool) -> tuple[InputsChange, InputsChange]:
    """Valid is forgotten in the cloning term, or in the other one."""

    def primitives(inputs: StageInputs) -> Primitives:
        eps, valid = inputs.drawn["eps"], inputs.batch.valid[:, None]

        def error(y: Array, target: Array, weight: Any) -> Any:
            right = (target is eps) != cloning
            return squared_error(y, target, valid if right else np.ones_like(valid))

        return {squared_error: error}

    def own(inputs: StageInputs) -> StageInputs:
        return inputs if cloning else every_row_valid(inputs)

    return running(ACTOR, primitives), own


def _noisier(z: Array) -> Array:
    """Of the posterior's variance, where the sampler's is β_k."""
    T = len(z)
    hats = vp_schedule(T).alpha_hats
    k = np.arange(T, 0, -1)
    share = np.sqrt((1 - hats[k - 1]) / (1 - hats[k]))
    return (z * share[:, None, None]).astype(z.dtype)


def diffusion_mistakes(recipe: DiffusionRecipe) -> Made:
    """Those of the noise predictor's loss, of the clip and of the sampler that bootstraps."""
    own, guide = recipe.settings, recipe.settings.guide
    which, other = (
        ("target", "critic") if own.use_target_critic_grad else ("online", "target_critic")
    )

    def acting(name: str, says: str, *changes: InputsChange) -> TrainingMistake:
        return of_stage(ACTOR, name, says, *changes)

    def predicting(name: str, says: str, change: InputsChange) -> TrainingMistake:
        # wherever the network is asked, by a critic that bootstraps from its actions as well
        asked = (ACTOR, "critic") if own.critic_loss_type == "ddpg" else (ACTOR,)
        changed = dict.fromkeys(asked, seeing(change))
        return TrainingMistake(name, says, ACTOR, stages=changed)

    at_noisy = "official: at the noisy action as it is."
    mistakes = [
        predicting(
            "step-as-fraction", "k/T is encoded; official: the number k itself.",
            running(ACTOR, _fraction),
        ),
        predicting(
            "features-sin-first",
            "The step's features have sines first; official: cosines first.",
            running(ACTOR, SIN_FIRST),
        ),
        predicting(
            "obs-before-action",
            "The noise predictor reads [s, x, …]; official: [x, s, …], the action first.",
            net(ACTOR, lambda network, _: replace(network, inputs=("obs", "action", "step"))),
        ),
        predicting(
            "encoder-activated",
            "The step's encoder ends in an activation; official: in a linear layer.",
            kind(ACTOR, ActivatedEncoder),
        ),
        TrainingMistake(
            "critic-mish",
            "Critic and value have mish; official: gelu, mish only in the actor.", ACTOR,
            stages={
                name: seeing(*(
                    net(part.name, _mish) for part in recipe.parts if part.name != ACTOR
                ))
                for name in recipe.losses
            },
        ),
        acting(
            "query-clipped", f"The critic is differentiated at the clipped action; {at_noisy}",
            kind(guide, _ClippedCritic),
        ),
        acting(
            "query-clipped-masked",
            f"The critic is differentiated through a clip of the action; {at_noisy}",
            kind(guide, _MaskedCritic),
        ),
        acting(
            "actor-other-critic",
            f"The actor follows the other critic's gradient; here: the {which} critic's.",
            instead(guide, other),
        ),
        acting(
            "gradient-of-batch-mean",
            "The mean of Q over the batch is differentiated; official: each row's own Q.",
            kind(guide, _MeanCritic),
        ),
        acting(
            "valid-ignored-in-cloning",
            "Cloning the noise counts invalid rows; official: valid·(e − eps)².",
            *_without_valid(cloning=True),
        ),
        acting(
            "valid-ignored-in-actor",
            "The term that follows the critic counts invalid rows; official: valid times it.",
            *_without_valid(cloning=False),
        ),
        *without_weight(recipe, ACTOR, "alpha"),
        *_of_temperature(recipe),
        *clip_mistakes(recipe.trained, (recipe.trained,), own.clip_grad_norm),
    ]  # fmt: skip
    if own.critic_loss_type == "ddpg":
        sampling = [
            (
                "next-action-posterior-variance",
                "The sampler's noise has the posterior's variance; official: β_k.",
                drawing("next_z", _noisier),
            ),
        ]
        if own.clips == SamplerClips():
            clipped = kind("target_critic", _ClippedCritic)
            says = "The next action is clipped to ±1; official: only as the sampler's flags say."
            sampling.append(("next-action-clipped", says, clipped))
        mistakes += [
            *next_mistakes(NEXT_MIN, *sampling), *deviation_mistakes(own, next_q),
            *_of_sampler(recipe),
        ]  # fmt: skip
    return tuple(mistakes)


def _of_temperature(recipe: DiffusionRecipe) -> Made:
    """Those of QSM's κ; DAC has none."""
    own: Any = recipe.settings
    if own.temperature is None:
        return ()
    changed: dict[str, tuple[str, float]] = {
        "temperature-sign": (
            "The noise is matched to +κ times Q's gradient; official: to −κ.", -own.inv_temp
        ),
    }  # fmt: skip
    if own.inv_temp not in (0, 1):
        says = "The critic's gradient is divided by inv_temp; official: multiplied."
        changed["temperature-inverted"] = says, 1 / own.inv_temp
    return tuple(
        TrainingMistake(name, says, ACTOR, {"settings": replace(own, inv_temp=value)})
        for name, (says, value) in changed.items()
    )


def _of_sampler(recipe: DiffusionRecipe) -> Made:
    """Other clip flags than the settings'."""
    own = recipe.settings
    made = []
    for name, clips in SAMPLERS.items():
        if clips == own.clips:
            continue
        flags: dict[str, Any] = {f"clip_sampler_{when}": on for when, on in vars(clips).items()}
        said = ", ".join(f"{flag}={value}" for flag, value in flags.items())
        changed: Callable[..., Array] = partial(next_q, replace(own, **flags))
        says = f"The next action is sampled with {said}, unlike the settings."
        made.append(TrainingMistake(f"next-action-{name}", says, "critic", {"bootstrap": changed}))
    return tuple(made)
