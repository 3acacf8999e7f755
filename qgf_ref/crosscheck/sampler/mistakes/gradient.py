"""Mistakes in the gradient at the query point, and in the reduction over the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import (
    Change,
    Mistake,
    at_values,
    drift_rule,
    estimator_kernels,
    gradient_rule,
    is_guided,
    one,
    ruled,
)
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.mistakes.query import ONE_STEP, QUERY_POINT, asks_one_step
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped
from qgf_ref.guidance.queries import critic_gradient, one_step_estimate
from qgf_ref.guidance.registry import estimator
from qgf_ref.ops.clip import clip_vjp
from qgf_ref.ops.ensemble import EnsembleCache, ensemble_reduce


def _instead(name: str) -> Mapping[str, Change]:
    def apply(port: Port) -> Port:
        return replace(port, estimator=_in_options(port.estimator, estimator(name)))

    return one(apply)


def _in_options(stated: Estimator, other: Estimator) -> Estimator:
    """The other estimator in the place of the stated one, within its options."""
    if isinstance(stated, Wrapped):
        return replace(stated, base=_in_options(stated.base, other))
    return other


def _not(name: str) -> Callable[[Port], bool]:
    return lambda port: port.stated != name


def _masked(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guidance = base(flow, step)
    query = one_step_estimate(flow, step)
    if query.clip is None:
        return guidance
    return replace(guidance, gradient=clip_vjp(guidance.gradient, query.clip))


def _jacobian_untransposed(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    query = one_step_estimate(flow, step)
    at_query = critic_gradient(flow, step.obs, query.x)
    g = at_query.gradient
    pushed = g + (1 - step.time) * flow.field.jvp(g, step.velocity_cache)
    if base.name == "qgf_jacobian" and query.clip is not None:
        pushed = query.clip.slope * pushed
    return replace(at_query, gradient=pushed)


def _at_noisy_action(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    at_query = critic_gradient(flow, step.obs, one_step_estimate(flow, step).x)
    return replace(at_query, gradient=critic_gradient(flow, step.obs, step.action).gradient)


class _Observing:
    """A critic whose vjp gives the first D columns of its whole input's cotangent."""

    def __init__(self, critic: Any) -> None:
        self.critic = critic
        self.aggregation: str = critic.aggregation

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        q, cache = self.critic.forward(obs, action)
        return q, (cache, action.shape[1], obs.shape[1])

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        return self.critic.jvp(action_dot, cache[0])

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        s_bar, a_bar = self.critic.vjp_inputs(q_bar, cache[0])
        return np.concatenate([s_bar, a_bar], axis=1)[:, : cache[1]]

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        obs_dot = np.zeros((len(action_dot), cache[2]), action_dot.dtype)
        bars_dot = self.critic.hvp_inputs(obs_dot, action_dot, q_bar, cache[0])
        return np.concatenate(bars_dot, axis=1)[:, : cache[1]]


def _of_observation(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    return base(replace(flow, critic=_Observing(flow.critic)), step)


def _norm(x: Array) -> Array:
    return np.sqrt((x * x).sum(axis=1, keepdims=True))


def _per_norm(g: Array, by: Array | float) -> Array:
    norm = _norm(g)
    return by * np.divide(g, norm, out=np.zeros_like(g), where=norm > 0)


def _scaled_to(norm: float) -> Change:
    return gradient_rule(lambda g, step, flow: _per_norm(g, norm))[""]


def _signs(size: float) -> Change:
    return gradient_rule(lambda g, step, flow: size * np.sign(g))[""]


def _norms_at_most(bound: float) -> Change:
    return gradient_rule(lambda g, step, flow: _at_most(g, _norm(g), bound))[""]


def _whole_norm_at_most(bound: float) -> Change:
    return gradient_rule(lambda g, step, flow: _at_most(g, np.sqrt((g * g).sum()), bound))[""]


def _at_most(g: Array, norm: Array, bound: float) -> Array:
    return g * np.minimum(1, bound / np.maximum(norm, np.finfo(g.dtype).tiny))


def _elements_at_most(bound: float) -> Change:
    return gradient_rule(lambda g, step, flow: np.clip(g, -bound, bound))[""]


def _reduction(weight: Callable[[Array], Array]) -> Mapping[str, Change]:
    """weight: q (E, B) → the derivative of the aggregate in each member, (E, B)."""

    def reduce(q: Array, aggregation: str, *args: Any) -> tuple[Array, EnsembleCache]:
        share = weight(q).astype(q.dtype)
        return (share * q).sum(axis=0), EnsembleCache(share)

    return estimator_kernels(lambda flow, step: {ensemble_reduce: reduce})


def _at(extreme: Array, q: Array, axis: int) -> Array:
    attains = q == extreme
    return attains / attains.sum(axis=axis, keepdims=True)


def _sum_member(q: Array) -> Array:
    chosen = np.zeros_like(q)
    chosen[q.sum(axis=1).argmin()] = 1
    return chosen


def of_member(e: int) -> Change:
    """The gradient of member e alone."""

    def chosen(q: Array) -> Array:
        return np.arange(len(q))[:, None] + 0 * q == e

    return _reduction(chosen)[""]


def _first(q: Array) -> Array:
    return np.arange(len(q))[:, None] == q.argmin(axis=0)


def _min(port: Port) -> bool:
    return has_members(port) and port.flow.critic.aggregation == "min"


def _plain(port: Port) -> bool:
    return port.stated == "qgf"


CONSTANT = "QGF differentiates Q in its argument; clip and v are constants"

GRADIENT: tuple[Mistake, ...] = (
    Mistake("gradient-plain", "gradient", "g",
            "no Jacobian at all: ∇Q at the one-step estimate as it stands, which is `qgf`",
            _instead("qgf"), lambda port: port.stated in ONE_STEP and port.stated != "qgf"),
    Mistake("gradient-clip-masked", "gradient", "g",
            f"differentiated through the clip, so that clipped coordinates get 0: {CONSTANT}",
            _instead("qgf_masked"), _plain),
    Mistake("gradient-jacobian", "gradient", "g",
            f"differentiated in a_t, through the clip and v (v not detached): {CONSTANT}; this is "
            "`qgf_jacobian`",
            _instead("qgf_jacobian"), _not("qgf_jacobian")),
    Mistake("gradient-jacobian-unmasked", "gradient", "g",
            f"differentiated through v, but not through the clip: {CONSTANT}",
            _instead("qgf_jacobian_unmasked"), _not("qgf_jacobian_unmasked")),
    Mistake("gradient-jvp-for-vjp", "gradient", "g",
            "J·∇Q for Jᵀ·∇Q: the chain rule needs the transposed Jacobian (a vjp)",
            ruled(_jacobian_untransposed), asks_one_step),
    Mistake("gradient-bptt", "gradient", "a1_hat",
            f"backpropagated through the rest of the flow: {CONSTANT}; this is `bptt`",
            _instead("bptt"), lambda port: is_guided(port) and port.stated != "bptt"),
    Mistake("gradient-at-noisy-action", "gradient", "g",
            "∇Q at the noisy action a_t, though the one-step estimate was made: "
            f"{QUERY_POINT}, and differentiated there",
            ruled(_at_noisy_action), asks_one_step),
    Mistake("gradient-batch-mean", "batch", "g",
            "the mean of Q over the batch is differentiated: gradients shrink by the number of "
            "rows (official RobustQ does it: D5); differentiate the sum",
            gradient_rule(lambda g, step, flow: g / len(g)), is_guided, coupled=True),
    Mistake("gradient-batch-ensemble-mean", "batch", "g",
            "the mean over batch and members is differentiated: differentiate the sum over the "
            "batch of the aggregate",
            one(lambda port: port.with_rule(_over_batch_and_members)), is_guided, coupled=True),
    Mistake("gradient-unit-norm", "gradient", "g",
            "the gradient is normalised to length 1: QGF uses it raw",
            one(_scaled_to(1.0)), is_guided, at=_scaled_to),
    Mistake("gradient-norm-clipped", "gradient", "g",
            "each row's gradient is clipped to a norm (grad_clip_norm): QGF uses it raw",
            at_values(_norms_at_most, 1.0, 0.5), is_guided, at=_norms_at_most),
    Mistake("gradient-norm-clipped-batch", "batch", "g",
            "the gradients of all rows are clipped to a norm together (clip_grad_norm_ of the "
            "whole batch), so that a gradient depends on the other rows: QGF uses it raw",
            at_values(_whole_norm_at_most, 1.0, 0.5), is_guided, coupled=True,
            at=_whole_norm_at_most),
    Mistake("gradient-value-clipped", "gradient", "g",
            "each element of the gradient is clipped (clip_grad_value_): QGF uses it raw",
            at_values(_elements_at_most, 1.0, 0.5), is_guided, at=_elements_at_most),
    Mistake("gradient-sign", "gradient", "g",
            "the sign of the gradient (GradStep's option): QGF uses it raw",
            one(_signs(1.0)), is_guided, at=_signs),
    Mistake("gradient-times-1-t", "gradient", "g",
            "the gradient is scaled by 1−t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: (1 - step.time) * g), is_guided),
    Mistake("gradient-times-t", "gradient", "g",
            "the gradient is scaled by t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: step.time * g), is_guided),
    Mistake("gradient-over-1-t", "gradient", "g",
            "the gradient is divided by 1−t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: g / (1 - step.time)), is_guided),
    Mistake("gradient-velocity-norm", "gradient", "g",
            "the gradient is scaled to the length of v: QGF uses it raw",
            gradient_rule(lambda g, step, flow: _per_norm(g, _norm(step.velocity))), is_guided),
    Mistake("gradient-negated", "gradient", "g",
            "the gradient's sign is flipped (Q is minimised)",
            gradient_rule(lambda g, step, flow: -g), is_guided),
    Mistake("gradient-of-observation", "gradient", "g",
            "the gradient's first D columns belong to the observation: the action's columns come "
            "after them in the critic's input",
            ruled(_of_observation), is_guided),
    Mistake("gradient-action-mean", "gradient", "g",
            "the gradient is divided by D (a mean over action dimensions): QGF uses it raw",
            gradient_rule(lambda g, step, flow: g / g.shape[1]), is_guided),
    Mistake("gradient-masked-too", "gradient", "g",
            "the clip's mask is applied to a gradient that must not have it",
            ruled(_masked), lambda port: port.stated == "qgf_jacobian_unmasked"),
)  # fmt: skip

AGGREGATION: tuple[Mistake, ...] = (
    Mistake("ensemble-mean", "aggregation", "g",
            "the gradient of the mean over members: the options say min",
            _reduction(lambda q: np.full_like(q, 1 / len(q))),
            lambda port: is_guided(port) and _min(port)),
    Mistake("ensemble-min", "aggregation", "g",
            "the gradient of the minimum over members: the options say mean",
            _reduction(lambda q: _at(q.min(axis=0), q, 0)),
            lambda port: is_guided(port) and has_members(port) and not _min(port)),
    Mistake("ensemble-sum", "aggregation", "g",
            "the gradient of the sum over members (min forgotten before .sum())",
            _reduction(np.ones_like), lambda port: is_guided(port) and has_members(port)),
    Mistake("ensemble-max", "aggregation", "g",
            "the gradient of the maximum over members",
            _reduction(lambda q: _at(q.max(axis=0), q, 0)),
            lambda port: is_guided(port) and has_members(port)),
    Mistake("ensemble-member-0", "aggregation", "g",
            "the gradient of member 0 alone (Q1 only, as in TD3)",
            one(of_member(0)), lambda port: is_guided(port) and has_members(port)),
    Mistake("ensemble-min-of-batch-sum", "aggregation", "g",
            "the minimum over members is taken after the sum over the batch: one member for all "
            "rows, so that a gradient depends on the other rows",
            _reduction(_sum_member), lambda port: is_guided(port) and _min(port), coupled=True),
    Mistake("ensemble-min-over-batch", "aggregation", "g",
            "the minimum is taken over the batch axis (official code with num_qs=1: D4): the "
            "ensemble is axis 0 of (E, B)",
            _reduction(lambda q: _at(q.min(axis=1, keepdims=True), q, 1)), is_guided, coupled=True),
    Mistake("ties-first", "aggregation", "g",
            "the first of tied members gets the whole gradient (argmin, torch.min(dim=0)): "
            "jax.numpy.min splits it equally (torch.amin does, too)",
            _reduction(_first), lambda port: is_guided(port) and _min(port)),
)  # fmt: skip


FACTORS: tuple[Mistake, ...] = (
    Mistake("gradient-times-constant", "gradient", "g", "the gradient is multiplied by a constant",
            {}, is_guided, at=lambda c: gradient_rule(lambda g, step, flow: c * g)[""]),
    Mistake("weight-times-constant", "update", "a", "the weight is multiplied by a constant",
            {}, is_guided, at=lambda c: drift_rule(lambda v, g, w, step, flow: v + c * w * g)[""]),
)  # fmt: skip
"""Not in the bank, as any number fits: on a run of one weight, some of its mistakes are these."""


def _over_batch_and_members(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guidance = base(flow, step)
    members = 1 if guidance.q is None else len(guidance.q)
    return replace(guidance, gradient=guidance.gradient / (len(guidance.gradient) * members))
