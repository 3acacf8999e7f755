"""Mistakes at the query point, and in which critic is asked there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import (
    Change,
    Mistake,
    estimator_kernels,
    is_guided,
    one,
    ruled,
)
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import target_value
from qgf_ref.ops.clip import Bound, Box, ClipCache, clip
from qgf_ref.ops.structure import axpy, scaled

ONE_STEP = ("qgf", "qgf_masked", "qgf_jacobian", "qgf_jacobian_unmasked")
"""Estimators whose query point is the one-step estimate alone."""

Factor = Callable[[float, float], float]
"""(1 − t, 1/T) → what multiplies v in the one-step estimate."""


def asks_one_step(port: Port) -> bool:
    """Whether the port's estimator asks the critic at the one-step estimate."""
    return port.stated in ONE_STEP


def query(factor: Factor | None = None, bound: Any = None) -> Mapping[str, Change]:
    """The one-step estimate with another factor on v, or another clip."""

    def by(flow: GuidedFlow, step: DenoisingStep) -> dict[Any, Any]:
        rest, dt = 1 - step.time, 1 / flow.denoise_steps

        def sum_of(scale: Any, x: Array, y: Array) -> Array:
            estimate = factor and x is step.velocity and y is step.action
            return axpy(factor(rest, dt) if factor and estimate else scale, x, y)

        def times(scale: Any, x: Array) -> Array:
            left = factor and np.ndim(scale) == 0 and scale == rest
            return scaled(factor(rest, dt) if factor and left else scale, x)

        replacements: dict[Any, Any] = {axpy: sum_of, scaled: times} if factor else {}
        return replacements | ({clip: bound} if bound else {})

    return estimator_kernels(by)


def _unclipped(x: Array, *args: Any) -> tuple[Array, ClipCache]:
    return x, ClipCache(np.ones_like(x))


def _clip_0_1(x: Array, *args: Any) -> tuple[Array, ClipCache]:
    return np.clip(x, 0, 1), ClipCache(((x > 0) & (x < 1)).astype(x.dtype))


def _clip_inside(x: Array, bound: Bound, *args: Any) -> tuple[Array, ClipCache]:
    within = bound.scaled(1 - 1e-5) if isinstance(bound, Box) else bound * (1 - 1e-5)
    return clip(x, within, *args)


def _guided_velocity(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guided = step.velocity + step.weight * base(flow, step).gradient
    return base(flow, replace(step, velocity=guided))


def guided_by_the_other(port: Port) -> Port:
    """The port guided by the other copy of the critic, and ranked as it is."""

    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        return target_value(replace(flow, critic=port.flow.critic), obs, unclipped, action)

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


QUERY_POINT = "the critic is asked at clip(a_t + (1−t)v, ±1)"

QUERY: tuple[Mistake, ...] = (
    Mistake("query-factor-t", "query", "a1_hat", f"a_t + t·v for a_t + (1−t)·v: {QUERY_POINT}",
            query(lambda rest, dt: 1 - rest), asks_one_step),
    Mistake("query-factor-minus-dt", "query", "a1_hat",
            f"a_t + (1−t−1/T)·v for a_t + (1−t)·v: {QUERY_POINT}",
            query(lambda rest, dt: rest - dt), asks_one_step),
    Mistake("query-factor-1", "query", "a1_hat", f"a_t + v for a_t + (1−t)·v: {QUERY_POINT}",
            query(lambda rest, dt: 1.0), asks_one_step),
    Mistake("query-factor-dt", "query", "a1_hat",
            f"the next Euler state a_t + v/T for a_t + (1−t)·v: {QUERY_POINT}",
            query(lambda rest, dt: dt), asks_one_step),
    Mistake("query-unclipped", "query", "a1_hat",
            f"the one-step estimate is not clipped: {QUERY_POINT}",
            query(bound=_unclipped), asks_one_step),
    Mistake("query-noisy", "query", "a1_hat",
            f"the critic is asked at the noisy action a_t (QFQL, here `ood`): {QUERY_POINT}",
            query(lambda rest, dt: 0.0, _unclipped), asks_one_step),
    Mistake("query-noisy-clipped", "query", "a1_hat",
            f"the critic is asked at clip(a_t): {QUERY_POINT}",
            query(lambda rest, dt: 0.0), asks_one_step),
    Mistake("query-guided-velocity", "query", "a1_hat",
            "the one-step estimate uses the guided velocity v + w·g: it uses v alone",
            ruled(_guided_velocity), asks_one_step),
    Mistake("query-clip-0-1", "query", "a1_hat",
            f"the one-step estimate is clipped to [0, 1]: {QUERY_POINT}",
            query(bound=_clip_0_1), asks_one_step),
    Mistake("query-clip-inside", "query", "a1_hat",
            "the one-step estimate is clipped to ±(1−1e-5), the bound of the data set's actions: "
            f"{QUERY_POINT}",
            query(bound=_clip_inside), asks_one_step),
    Mistake("guidance-after-step", "query", "a1_hat",
            "the gradient is taken after the Euler step, at a_t + v/T and t + 1/T: both terms of "
            "v + w·g belong to a_t",
            {"t + 1/T": _later(_one_step_later), "(k+1)/T": _later(_next_on_grid)}, asks_one_step),
    Mistake("critic-online", "query", "q",
            "guidance uses the online critic: the official sampler uses the target critic",
            one(guided_by_the_other), is_guided),
)  # fmt: skip
