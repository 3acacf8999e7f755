"""Mistakes at the query point, in the gradient there, and in the reduction over the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.mistakes.base import (
    Change,
    Mistake,
    estimator_kernels,
    gradient_rule,
    one,
)
from qgf_ref.crosscheck.port import Port
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.queries import critic_gradient, one_step_estimate
from qgf_ref.guidance.registry import estimator
from qgf_ref.guidance.scheme import target_value
from qgf_ref.ops.clip import ClipCache, clip, clip_vjp
from qgf_ref.ops.ensemble import EnsembleCache, ensemble_reduce
from qgf_ref.ops.structure import axpy, scaled

ONE_STEP = ("qgf", "qgf_masked", "qgf_jacobian", "qgf_jacobian_unmasked")
"""Estimators whose query point is the one-step estimate alone."""

Factor = Callable[[float, float], float]
"""(1 − t, 1/T) → what multiplies v in the one-step estimate."""


def _one_step(port: Port) -> bool:
    return port.stated in ONE_STEP


def _query(factor: Factor | None = None, bound: Any = None) -> Mapping[str, Change]:
    """The one-step estimate with another factor on v, or another clip."""

    def by(flow: GuidedFlow, step: DenoisingStep) -> dict[Any, Any]:
        rest, dt = 1 - step.time, 1 / flow.denoise_steps

        def sum_of(scale: Any, x: Array, y: Array) -> Array:
            estimate = factor and x is step.velocity and y is step.action
            return axpy(factor(rest, dt) if factor and estimate else scale, x, y)

        def times(scale: Any, x: Array) -> Array:
            return scaled(factor(rest, dt) if factor and scale == rest else scale, x)

        found: dict[Any, Any] = {axpy: sum_of, scaled: times} if factor else {}
        return found | ({clip: bound} if bound else {})

    return estimator_kernels(by)


def _unclipped(x: Array, *args: Any) -> tuple[Array, ClipCache]:
    return x, ClipCache(np.ones_like(x))


def _clip_0_1(x: Array, *args: Any) -> tuple[Array, ClipCache]:
    return np.clip(x, 0, 1), ClipCache(((x > 0) & (x < 1)).astype(x.dtype))


def _clip_inside(x: Array, bound: float, *args: Any) -> tuple[Array, ClipCache]:
    return clip(x, bound * (1 - 1e-5), *args)


def _guided_velocity(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guided = step.velocity + step.weight * base(flow, step).gradient
    return base(flow, replace(step, velocity=guided))


def _instead(name: str) -> Mapping[str, Change]:
    def apply(port: Port) -> Port:
        return replace(port, estimator=estimator(name))

    return one(apply)


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
        return q, (cache, action.shape[1])

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        return self.critic.jvp(action_dot, cache[0])

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        s_bar, a_bar = self.critic.vjp_inputs(q_bar, cache[0])
        return np.concatenate([s_bar, a_bar], axis=1)[:, : cache[1]]


def _of_observation(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    return base(replace(flow, critic=_Observing(flow.critic)), step)


def _ruled(rule: Any) -> Mapping[str, Change]:
    return one(lambda port: port.with_rule(rule))


def _norm(x: Array) -> Array:
    return np.sqrt((x * x).sum(axis=1, keepdims=True))


def _per_norm(g: Array, by: Array | float) -> Array:
    norm = _norm(g)
    return by * np.divide(g, norm, out=np.zeros_like(g), where=norm > 0)


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


def _member_0(q: Array) -> Array:
    chosen = np.zeros_like(q)
    chosen[0] = 1
    return chosen


def _first(q: Array) -> Array:
    return np.arange(len(q))[:, None] == q.argmin(axis=0)


def _online(port: Port) -> Port:
    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        return target_value(replace(flow, critic=port.critic), obs, unclipped, action)

    guided = replace(port, flow=replace(port.flow, critic=port.online))
    return guided.with_scheme(rank=rank)


def _later(time: Callable[[DenoisingStep, GuidedFlow], float]) -> Change:
    """The gradient at the point after the Euler step."""

    def rule(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        moved = step.action + step.velocity / step.action.dtype.type(flow.denoise_steps)
        t = time(step, flow)
        velocity, cache = flow.field.forward(step.obs, moved, t)
        later = replace(step, action=moved, time=t, velocity=velocity, velocity_cache=cache)
        return base(flow, later)

    return lambda port: port.with_rule(rule)


def _next_on_grid(step: DenoisingStep, flow: GuidedFlow) -> float:
    return (*flow.times, 1.0)[step.index + 1]


def _one_step_later(step: DenoisingStep, flow: GuidedFlow) -> float:
    return float(np.float32(step.time) + np.float32(1) / np.float32(flow.denoise_steps))


def _members(port: Port) -> bool:
    return (port.critic.params.ensemble or 1) > 1


def _min(port: Port) -> bool:
    return _members(port) and port.critic.aggregation == "min"


def _guided(port: Port) -> bool:
    return port.stated != "none"


def _plain(port: Port) -> bool:
    return port.stated == "qgf"


QUERY_POINT = "the critic is asked at clip(a_t + (1−t)v, ±1)"
CONSTANT = "QGF differentiates Q in its argument; clip and v are constants"

QUERY: tuple[Mistake, ...] = (
    Mistake("query-factor-t", "query", "a1_hat", f"a_t + t·v for a_t + (1−t)·v: {QUERY_POINT}",
            _query(lambda rest, dt: 1 - rest), _one_step),
    Mistake("query-factor-minus-dt", "query", "a1_hat",
            f"a_t + (1−t−1/T)·v for a_t + (1−t)·v: {QUERY_POINT}",
            _query(lambda rest, dt: rest - dt), _one_step),
    Mistake("query-factor-1", "query", "a1_hat", f"a_t + v for a_t + (1−t)·v: {QUERY_POINT}",
            _query(lambda rest, dt: 1.0), _one_step),
    Mistake("query-factor-dt", "query", "a1_hat",
            f"the next Euler state a_t + v/T for a_t + (1−t)·v: {QUERY_POINT}",
            _query(lambda rest, dt: dt), _one_step),
    Mistake("query-unclipped", "query", "a1_hat",
            f"the one-step estimate is not clipped: {QUERY_POINT}",
            _query(bound=_unclipped), _one_step),
    Mistake("query-noisy", "query", "a1_hat",
            f"the critic is asked at the noisy action a_t (QFQL, here `ood`): {QUERY_POINT}",
            _query(lambda rest, dt: 0.0, _unclipped), _one_step),
    Mistake("query-noisy-clipped", "query", "a1_hat",
            f"the critic is asked at clip(a_t): {QUERY_POINT}",
            _query(lambda rest, dt: 0.0), _one_step),
    Mistake("query-guided-velocity", "query", "a1_hat",
            "the one-step estimate uses the guided velocity v + w·g: it uses v alone",
            _ruled(_guided_velocity), _one_step),
    Mistake("query-clip-0-1", "query", "a1_hat",
            f"the one-step estimate is clipped to [0, 1]: {QUERY_POINT}",
            _query(bound=_clip_0_1), _one_step),
    Mistake("query-clip-inside", "query", "a1_hat",
            "the one-step estimate is clipped to ±(1−1e-5), the bound of the data set's actions: "
            f"{QUERY_POINT}",
            _query(bound=_clip_inside), _one_step),
    Mistake("guidance-after-step", "query", "a1_hat",
            "the gradient is taken after the Euler step, at a_t + v/T and t + 1/T: both terms of "
            "v + w·g belong to a_t",
            {"t + 1/T": _later(_one_step_later), "(k+1)/T": _later(_next_on_grid)}, _one_step),
    Mistake("critic-online", "query", "q",
            "guidance uses the online critic: the official sampler uses the target critic",
            one(_online), _guided),
)  # fmt: skip

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
            _ruled(_jacobian_untransposed), _one_step),
    Mistake("gradient-bptt", "gradient", "a1_hat",
            f"backpropagated through the rest of the flow: {CONSTANT}; this is `bptt`",
            _instead("bptt"), lambda port: _guided(port) and port.stated != "bptt"),
    Mistake("gradient-at-noisy-action", "gradient", "g",
            "∇Q at the noisy action a_t, though the one-step estimate was made: "
            f"{QUERY_POINT}, and differentiated there",
            _ruled(_at_noisy_action), _one_step),
    Mistake("gradient-batch-mean", "batch", "g",
            "the mean of Q over the batch is differentiated: gradients shrink by the number of "
            "rows (official RobustQ does it: D5); differentiate the sum",
            gradient_rule(lambda g, step, flow: g / len(g)), _guided, coupled=True),
    Mistake("gradient-batch-ensemble-mean", "batch", "g",
            "the mean over batch and members is differentiated: differentiate the sum over the "
            "batch of the aggregate",
            one(lambda port: port.with_rule(_over_batch_and_members)), _guided, coupled=True),
    Mistake("gradient-unit-norm", "gradient", "g",
            "the gradient is normalised to length 1: QGF uses it raw",
            gradient_rule(lambda g, step, flow: _per_norm(g, 1.0)), _guided),
    Mistake("gradient-sign", "gradient", "g",
            "the sign of the gradient (GradStep's option): QGF uses it raw",
            gradient_rule(lambda g, step, flow: np.sign(g)), _guided),
    Mistake("gradient-times-1-t", "gradient", "g",
            "the gradient is scaled by 1−t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: (1 - step.time) * g), _guided),
    Mistake("gradient-times-t", "gradient", "g",
            "the gradient is scaled by t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: step.time * g), _guided),
    Mistake("gradient-over-1-t", "gradient", "g",
            "the gradient is divided by 1−t: QGF has no such factor",
            gradient_rule(lambda g, step, flow: g / (1 - step.time)), _guided),
    Mistake("gradient-velocity-norm", "gradient", "g",
            "the gradient is scaled to the length of v: QGF uses it raw",
            gradient_rule(lambda g, step, flow: _per_norm(g, _norm(step.velocity))), _guided),
    Mistake("gradient-negated", "gradient", "g",
            "the gradient's sign is flipped (Q is minimised)",
            gradient_rule(lambda g, step, flow: -g), _guided),
    Mistake("gradient-of-observation", "gradient", "g",
            "the gradient's first D columns belong to the observation: the action's columns come "
            "after them in the critic's input",
            _ruled(_of_observation), _guided),
    Mistake("gradient-action-mean", "gradient", "g",
            "the gradient is divided by D (a mean over action dimensions): QGF uses it raw",
            gradient_rule(lambda g, step, flow: g / g.shape[1]), _guided),
    Mistake("gradient-masked-too", "gradient", "g",
            "the clip's mask is applied to a gradient that must not have it",
            _ruled(_masked), lambda port: port.stated == "qgf_jacobian_unmasked"),
)  # fmt: skip

AGGREGATION: tuple[Mistake, ...] = (
    Mistake("ensemble-mean", "aggregation", "g",
            "the gradient of the mean over members: the options say min",
            _reduction(lambda q: np.full_like(q, 1 / len(q))),
            lambda port: _guided(port) and _min(port)),
    Mistake("ensemble-min", "aggregation", "g",
            "the gradient of the minimum over members: the options say mean",
            _reduction(lambda q: _at(q.min(axis=0), q, 0)),
            lambda port: _guided(port) and _members(port) and not _min(port)),
    Mistake("ensemble-sum", "aggregation", "g",
            "the gradient of the sum over members (min forgotten before .sum())",
            _reduction(np.ones_like), lambda port: _guided(port) and _members(port)),
    Mistake("ensemble-max", "aggregation", "g",
            "the gradient of the maximum over members",
            _reduction(lambda q: _at(q.max(axis=0), q, 0)),
            lambda port: _guided(port) and _members(port)),
    Mistake("ensemble-member-0", "aggregation", "g",
            "the gradient of member 0 alone (Q1 only, as in TD3)",
            _reduction(_member_0), lambda port: _guided(port) and _members(port)),
    Mistake("ensemble-min-of-batch-sum", "aggregation", "g",
            "the minimum over members is taken after the sum over the batch: one member for all "
            "rows, so that a gradient depends on the other rows",
            _reduction(_sum_member), lambda port: _guided(port) and _min(port), coupled=True),
    Mistake("ensemble-min-over-batch", "aggregation", "g",
            "the minimum is taken over the batch axis (official code with num_qs=1: D4): the "
            "ensemble is axis 0 of (E, B)",
            _reduction(lambda q: _at(q.min(axis=1, keepdims=True), q, 1)), _guided, coupled=True),
    Mistake("ties-first", "aggregation", "g",
            "the first of tied members gets the whole gradient (argmin, torch.min(dim=0)): "
            "jax.numpy.min splits it equally (torch.amin does, too)",
            _reduction(_first), lambda port: _guided(port) and _min(port)),
)  # fmt: skip


def _over_batch_and_members(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guidance = base(flow, step)
    members = 1 if guidance.q is None else len(guidance.q)
    return replace(guidance, gradient=guidance.gradient / (len(guidance.gradient) * members))


