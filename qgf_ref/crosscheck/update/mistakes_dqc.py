"""Mistakes in training DQC: of its policy, of the target, of goals, chunks and the update's order.

Source: goal_conditioned.md, sections 2 to 5 and 9. Those of the data (T2, T3, T4, T6, T18) no step
on a given batch shows, that of ranking (the other half of T8) no loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.dqc import ONLINE, TARGET, DQCRecipe, with_goal
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.mistakes_actor import Made, cloning_mistakes, of_stage
from qgf_ref.crosscheck.update.mistakes_dqc_critics import CHUNK, critics_mistakes
from qgf_ref.crosscheck.update.mistakes_update import UPDATE_MISTAKES
from qgf_ref.crosscheck.update.stage_changes import (
    InputsChange,
    adding,
    fed,
    net,
    on_batch,
    running,
    scaling,
    seeing,
    weighted,
)
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.learning import squared_error
from qgf_ref.ops.logits import probability
from qgf_ref.ops.structure import concat


def dqc_mistakes(recipe: DQCRecipe) -> Made:
    """Those that are looked for with the recipe's settings."""
    own = (*_policy(recipe), *_target(recipe), *_goals(recipe), *_chunks(recipe))
    return (*own, *critics_mistakes(recipe), *_update(recipe))


def of_stages(name: str, says: str, **changes: InputsChange) -> TrainingMistake:
    """A mistake of several stages, first seen in the loss of the first."""
    stages = {stage: seeing(change) for stage, change in changes.items()}
    return TrainingMistake(name, says, next(iter(changes)), stages=stages)


def _critics(recipe: DQCRecipe) -> tuple[str, ...]:
    """The stages but the policy's; the first one bootstraps from V."""
    return tuple(name for name in recipe.losses if name != "policy")


def _other_norm(*parts: str) -> InputsChange:
    def changed(network: Any, inputs: StageInputs) -> Any:
        options = network.options
        after = not options.norm_after_activation
        return replace(network, options=replace(options, norm_after_activation=after))

    def seen(inputs: StageInputs) -> StageInputs:
        for part in parts:
            inputs = net(part, changed)(inputs)
        return inputs

    return seen


def _policy(recipe: DQCRecipe) -> Made:
    own = recipe.settings
    left_out = own.policy_network == "dqc" and not own.policy_goals

    def with_valid(inputs: StageInputs) -> Any:
        valid = recipe.valid(own, inputs)[:, None]
        return {squared_error: weighted(lambda of: of * valid)}

    made = [
        *cloning_mistakes("policy", left_out),
        TrainingMistake(
            "policy-sum-over-action",
            "The policy loss sums over the chunk's dimensions; official: their mean.",
            "policy",
            stages={"policy": scaling(lambda inputs: inputs.nets.policy.params.out_features)},
        ),
        of_stage(
            "policy", "policy-other-norm-order",
            "The policy's LayerNorm is on the other side of the activation than its policy_network "
            "says (T1).",
            _other_norm("policy"),
        ),
    ]  # fmt: skip
    if not left_out:
        says = "The policy loss is weighted with valid; but for DQC's own policy every row counts."
        made.append(of_stage("policy", "valid-in-policy-loss", says, running("policy", with_valid)))
    if own.policy_network == "qgf":
        says = "t itself is embedded; official: the sines and cosines are those of 10⁴·t."
        unscaled = fed("policy", lambda inputs, obs, action, t: (obs, action, t / 10000))
        made.append(of_stage("policy", "time-unscaled", says, unscaled))
    return tuple(made)


def _unclipped(value: Any, obs: Array, rewards: Array, masks: Array, discounts: Array) -> Array:
    target: Array = rewards + discounts * masks * probability(value.forward(obs)[0])[0]
    return target


def _target(recipe: DQCRecipe) -> Made:
    """Of y = clip(R + γᵏ·mask·σ(V(s', g)), 0, 1)."""
    own = recipe.settings

    def gradient(inputs: StageInputs) -> MLPParams:
        """Of the chunk critic's loss in ψ: ∂L/∂y = −z/(E·B)."""
        batch, value = inputs.batch, inputs.nets.value
        z, _ = inputs.nets[CHUNK].forward(with_goal(inputs), batch.action)
        bootstrap = replace(inputs, batch=replace(batch, obs=batch.next_obs))
        logit, cache = value.forward(with_goal(bootstrap))
        y = recipe.reach(inputs)
        scale = inputs.hyper.discount**batch.steps * batch.masks * ((y > 0) & (y < 1))
        y_bar = -z.sum(axis=0) / z.size
        return value.vjp_params((y_bar * scale * probability(logit)[1]).astype(z.dtype), cache)

    def discounted(inputs: StageInputs) -> dict[str, Array]:
        rewards, scale = inputs.batch.rewards, inputs.hyper.discount**inputs.batch.steps
        return {"rewards": rewards * scale.astype(rewards.dtype)}

    def after(steps: int) -> InputsChange:
        return on_batch(lambda inputs: {"steps": np.full_like(inputs.batch.steps, steps)})

    changes: tuple[tuple[str, str, InputsChange], ...] = (
        (
            "mask-ignored",
            "The target bootstraps where the goal was reached; official: R + γᵏ·mask·σ(V(s', g)).",
            on_batch(lambda inputs: {"masks": np.ones_like(inputs.batch.masks)}),
        ),
        (
            "mask-inverted",
            "masks are read as done flags, 1 − mask; the official mask is 0 at a reached goal.",
            on_batch(lambda inputs: {"masks": 1 - inputs.batch.masks}),
        ),
        (
            "discount-of-one-step",
            "The bootstrap is discounted with γ; official: γᵏ, because s' is k steps ahead.",
            after(1),
        ),
        (
            "discount-of-whole-chunk",
            "The bootstrap is discounted with γʰ; official: γᵏ (k = h wherever data bootstrap).",
            after(own.backup_horizon),
        ),
        (
            "reward-discounted-again",
            "The target is γᵏ·(R + mask·σ(V)); the batch's R is γᵏ already.",
            on_batch(discounted),
        ),
        (
            "bootstrap-current-state",
            "The target bootstraps from V(s, g); official: V(s', g), k steps ahead.",
            on_batch(lambda inputs: {"next_obs": inputs.batch.obs}),
        ),
        (
            "bootstrap-logit",
            "The target bootstraps from V's logit; official: from its probability σ(V).",
            running("value", {probability: lambda z: (z, np.ones_like(z))}),
        ),
    )
    made = [of_stage(_critics(recipe)[0], *change) for change in changes]
    if not own.use_chunk_critic:
        return tuple(made)
    return (
        *made,
        TrainingMistake(
            "target-unclipped",
            "The target is not clipped; official: to [0, 1] (which binds in no batch of the data).",
            CHUNK, {"reached": _unclipped},
        ),
        TrainingMistake(
            "chunk-gradient-into-value",
            "The chunk critic's gradient flows into V through the target; official: V is held.",
            "grad/value", stages={"value": adding("value", gradient)},
        ),
    )  # fmt: skip


def _goals(recipe: DQCRecipe) -> Made:
    """Of which network reads which goal, and where; of all critics, their LayerNorm."""
    own, critics = recipe.settings, _critics(recipe)
    chunk = (CHUNK,) if own.use_chunk_critic else ()

    def blank(inputs: StageInputs, obs: Array, *rest: Any) -> tuple[Any, ...]:
        state = np.arange(obs.shape[1]) < obs.shape[1] - own.goal_dim
        return np.where(state, obs, 0).astype(obs.dtype), *rest

    def turned(*parts: Array) -> Any:
        return concat(*parts[::-1]) if len(parts) == 2 else concat(*parts)

    def left_out(who: str, **networks: str) -> TrainingMistake:
        says = f"The {who} sees no goal (zeros in its place); official: it reads [s, g]."
        changes = {stage: fed(part, blank) for stage, part in networks.items()}
        return of_stages(f"goal-left-out-of-{who.replace(' ', '-')}", says, **changes)

    made = [
        *([left_out("chunk critic", **{CHUNK: CHUNK, ONLINE: CHUNK})] if chunk else []),
        left_out("action critic", **{ONLINE: ONLINE, "value": TARGET}),
        left_out("value", **{critics[0]: "value", "value": "value"}),
        of_stages(
            "goal-before-state-in-critics",
            "Critics and value read [g, s, …]; official: [s, g, …], the state first.",
            **dict.fromkeys(critics, running("value", {concat: turned})),
        ),
        of_stages(
            "critics-other-norm-order",
            "LayerNorm precedes the activation in critics and value; official: it follows (T1).",
            **dict.fromkeys(critics, _other_norm(*chunk, ONLINE, TARGET, "value")),
        ),
    ]
    if not own.policy_goals:
        return tuple(made)
    turn = running("policy", {concat: turned})
    to_policy = on_batch(lambda inputs: {"policy_goal": inputs.batch.goal})
    to_critics = on_batch(lambda inputs: {"goal": inputs.batch.policy_goal})
    return (
        *made,
        left_out("policy", policy="policy"),
        of_stage(
            "policy", "goal-before-state-in-policy",
            "The policy reads [g, s, …]; official: [s, g, …], the state first.", turn,
        ),
        of_stage(
            "policy", "policy-has-critics-goals",
            "The policy is trained on the critics' goals; it has goals of its own.", to_policy,
        ),
        of_stages(
            "critics-have-policys-goals",
            "Critics and value have the policy's goals; rewards and masks tell of their own.",
            **dict.fromkeys(critics, to_critics),
        ),
    )  # fmt: skip


def _chunks(recipe: DQCRecipe) -> Made:
    """Of h and h_a, where they differ."""
    own = recipe.settings
    h, h_a = own.backup_horizon, own.policy_chunk_size
    if h == h_a:
        return ()

    def of_flat_chunk(own: Any, inputs: StageInputs) -> Array:
        valid: Array = inputs.batch.valid
        return valid[:, min(h_a * inputs.batch.action.shape[1] // h, h) - 1]

    def short(inputs: StageInputs, obs: Array, action: Array) -> tuple[Array, Array]:
        own_columns = np.arange(action.shape[1]) < action.shape[1] * h_a // h
        return obs, np.where(own_columns, action, 0).astype(action.dtype)

    def rolled(action: Array, way: int = 1) -> Array:
        return np.roll(action, way * action.shape[1] * h_a // h, axis=1)

    def last(inputs: StageInputs) -> StageInputs:
        # the whole window is as it was
        back = fed(CHUNK, lambda inputs, obs, action: (obs, rolled(action, -1)))
        turned = on_batch(lambda inputs: {"action": rolled(inputs.batch.action)})(inputs)
        return back(turned) if own.use_chunk_critic else turned

    says = "The chunk critic sees h_a actions (zeros for the others); official: all h."
    left_out = own.policy_network == "dqc" and not own.policy_goals
    return (
        TrainingMistake(
            "valid-of-flat-chunk",
            "valid is read at column h_a·A − 1 (h − 1 at most), as by DQC's code; right: h_a − 1, "
            "columns are actions (T5; the same for admissible starts).",
            "policy" if left_out else ONLINE, {"valid": of_flat_chunk},
        ),
        of_stages(
            "chunk-from-the-end",
            "The policy's chunk is the last h_a actions of the window; official: the first.",
            **dict.fromkeys(("policy", ONLINE, "value"), last),
        ),
        *([
            of_stages("chunk-critic-short", says,
                      **dict.fromkeys((CHUNK, ONLINE), fed(CHUNK, short)))
        ] if own.use_chunk_critic else ()),
    )  # fmt: skip


def _update(recipe: DQCRecipe) -> Made:
    """Of the stages' order, of Adam and of the average."""
    *critics, value = _critics(recipe)
    # the first one that sees another network; of two critics the second, whose teacher has stepped
    second = (*critics, value)[1]
    averaged = {"params/target_critic": f"params/{TARGET}"}
    return (
        TrainingMistake(
            "losses-in-turn",
            "Critics and value step one after the other; official: all see the old networks.",
            second, {"in_turn": ("policy", *critics, value)},
        ),
        TrainingMistake(
            "critics-after-value-step",
            "The value steps first and the critics see it; official: all see the old networks.",
            critics[0], {"in_turn": ("policy", value, *critics)},
        ),
        *(
            replace(m, first=averaged.get(m.first, m.first))
            for m in UPDATE_MISTAKES if "in_turn" not in m.changes
        ),
    )  # fmt: skip
