"""Mistakes in the Euler update, in its weight, at the ends of the loop, and in best-of-N."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import Change, Mistake, drift_rule, is_guided, one
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.queries import bounded, one_step_estimate
from qgf_ref.guidance.scheme import target_value
from qgf_ref.nets.critic import Critic
from qgf_ref.ops.clip import Bound, clip


def _weight(change: Any) -> Mapping[str, Change]:
    return drift_rule(lambda v, g, w, step, flow: v + change(w) * g)


def _inverted(w: Any) -> Any:
    w = np.asarray(w)
    return np.divide(1.0, w, out=np.zeros(w.shape), where=w > 0)


def _clean_estimate(v: Array, g: Array, w: Any, step: DenoisingStep, flow: GuidedFlow) -> Array:
    moved = bounded(flow, one_step_estimate(flow, replace(step, velocity=v)).x + w * g).x
    return (moved - step.action) / (1 - step.time)


def _steps(more: int) -> Mapping[str, Change]:
    def rule(v: Array, g: Array, w: Any, step: DenoisingStep, flow: GuidedFlow) -> Array:
        T = flow.denoise_steps
        return (v + w * g) * (T / (T + more))

    return drift_rule(rule)


def _clip_every_step(v: Array, g: Array, w: Any, step: DenoisingStep, flow: GuidedFlow) -> Array:
    T = flow.denoise_steps
    following = clip(step.action + (v + w * g) / T, clamp_of(flow))[0]
    return (following - step.action) * T


def clamp_of(flow: GuidedFlow) -> Bound:
    """The bound to which a port would clamp: the flow's, and 1 where it has none."""
    return 1.0 if flow.bound is None else flow.bound


def _action_major(port: Port) -> Port:
    H, A = port.horizon, port.action_dim

    def deliver(action: Array) -> Array:
        return action.reshape(-1, H, A).swapaxes(1, 2).reshape(action.shape)

    return port.with_scheme(deliver=deliver)


def _ranked(rank: Any) -> Mapping[str, Change]:
    return one(lambda port: port.with_scheme(rank=rank))


def _chosen(choose: Any) -> Mapping[str, Change]:
    return one(lambda port: port.with_scheme(choose=choose))


def _by_mean(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
    return flow.critic.forward(obs, action)[0].mean(axis=0)


def ranked_by(port: Port, critic: Critic) -> Port:
    """The port with its best-of-N ranked by another critic."""

    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        return target_value(replace(flow, critic=critic), obs, unclipped, action)

    return port.with_scheme(rank=rank)


def _unclipped_first(port: Port) -> Port:
    usual = port.played.rank

    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        return usual(flow, obs, unclipped, unclipped)

    return port.with_scheme(rank=rank)


def _last(q: Array) -> Array:
    return q.shape[1] - 1 - q[:, ::-1].argmax(axis=1)


def _whole_batch(q: Array) -> Array:
    return np.full(len(q), q.argmax() % q.shape[1])


def _chunked(port: Port) -> bool:
    return port.horizon > 1 and port.action_dim > 1


def _min(port: Port) -> bool:
    return port.flow.critic.aggregation == "min" and has_members(port)


STEP = "a_{t+1/T} = a_t + (v + w·g)/T"

UPDATE: tuple[Mistake, ...] = (
    Mistake("guidance-without-dt", "update", "a",
            f"the guidance is not multiplied by 1/T: {STEP}",
            drift_rule(lambda v, g, w, step, flow: v + w * g * flow.denoise_steps), is_guided),
    Mistake("weight-inverted", "update", "a",
            "the guidance is weighted by 1/w: w = 1/β multiplies the gradient",
            _weight(_inverted), is_guided),
    Mistake("weight-squared", "update", "a", "the weight is applied twice",
            _weight(lambda w: w * w), is_guided),
    Mistake("weight-default-1", "update", "a",
            "the weight given is ignored: 1 is used",
            _weight(lambda w: 1.0), is_guided),
    Mistake("weight-zero-as-default", "update", "a",
            "`weight or 1.0`: a weight of 0 becomes the default; test `is None`",
            _weight(lambda w: np.where(np.asarray(w) == 0, 1.0, w)), is_guided),
    Mistake("weight-integer", "update", "a",
            "the weight is cut to an integer",
            _weight(np.floor), is_guided),
    Mistake("guidance-missing", "update", "a",
            "the gradient never reaches the update (plain behaviour cloning)",
            _weight(lambda w: 0.0), is_guided),
    Mistake("guidance-convex", "update", "a",
            f"(1−w)·v + w·g, as in classifier-free guidance: {STEP}",
            drift_rule(lambda v, g, w, step, flow: (1 - w) * v + w * g), is_guided),
    Mistake("guidance-on-clean-estimate", "update", "a",
            f"the one-step estimate is guided and turned back into a velocity: {STEP}",
            drift_rule(_clean_estimate), is_guided),
    Mistake("steps-plus-1", "update", "a",
            f"the update divides by T + 1: {STEP}", _steps(1)),
    Mistake("steps-minus-1", "update", "a",
            f"the update divides by T − 1: {STEP}", _steps(-1),
            lambda port: port.flow.denoise_steps > 1),
    Mistake("clip-every-step", "update", "a",
            "a_t is clipped after every step: only the last one is",
            drift_rule(_clip_every_step)),
    Mistake("noise-clipped", "update", "a",
            "the initial noise is clipped: a_0 ~ N(0, I), unclipped",
            one(lambda port: port.with_scheme(start=lambda noise: np.clip(noise, -1, 1)))),
    Mistake("final-clip-missing", "update", "action",
            "the result is not clipped to ±1",
            one(lambda port: port.with_scheme(finish=lambda flow, action: action))),
    Mistake("chunk-action-major", "update", "action",
            "the flat chunk is laid out action-major (a·H + h): the official layout is step-major "
            "(h·A + a), reshape(B, H, A)",
            one(_action_major), _chunked),
)  # fmt: skip

SELECTION: tuple[Mistake, ...] = (
    Mistake("best-of-tiled", "selection", "v",
            "observations are tiled (s0, s1, …, s0, s1, …) for best-of-N: each one is repeated n "
            "times in a row (np.repeat, torch.repeat_interleave)",
            one(lambda port: port.with_scheme(spread=lambda obs, n: np.tile(obs, (n, 1)))),
            coupled=True, selects=True),
    Mistake("best-of-ranks-unclipped", "selection", "action",
            "candidates are ranked before the final clip: rank the clipped actions",
            one(_unclipped_first), selects=True),
    Mistake("best-of-argmin", "selection", "action",
            "the candidate with the lowest value is chosen",
            _chosen(lambda q: q.argmin(axis=1)), selects=True),
    Mistake("best-of-mean", "selection", "action",
            "candidates are ranked by the mean over members: the options say min",
            _ranked(_by_mean), lambda port: _min(port) and not port.ranks_online, selects=True),
    Mistake("best-of-online", "selection", "action",
            "candidates are ranked by the online critic: QGF ranks by the target critic",
            one(lambda port: ranked_by(port, port.online)),
            lambda port: port.stated != "cfgrl" and not port.ranks_online, selects=True),
    Mistake("best-of-whole-batch", "selection", "action",
            "the argmax runs over the whole batch: it belongs to each observation's n candidates",
            _chosen(_whole_batch), coupled=True, selects=True),
    Mistake("best-of-last", "selection", "action",
            "the last of equal candidates is chosen: argmax takes the first",
            _chosen(_last), selects=True),
    Mistake("best-of-ignored", "selection", "action",
            "best-of-N is ignored (official fql, dcgql, dsrl, fawac, fbrac swallow the argument: "
            "D9)",
            _chosen(lambda q: np.zeros(len(q), int)), selects=True),
)  # fmt: skip
