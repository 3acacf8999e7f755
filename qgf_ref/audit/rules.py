"""The audit's first-order rules: primitives and networks, at a checkpoint's own states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.flow.euler import rollout, rollout_jvp, rollout_vjp
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops import activations, clip, ensemble, layer_norm, linear, structure, time_embedding
from qgf_ref.ops.time_embedding import DIM
from qgf_ref.sampling import trace

Rule = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any] | None, Any]
"""f, jvp(x, x_dot), vjp(x, y_bar), x: what there is of them."""


@dataclass(frozen=True)
class Point:
    """Where the derivatives are taken: real states of this checkpoint, in float64.

    obs (B, O); noise (B, D); a (T, B, D), a chain guided by `qgf`.
    """

    checkpoint: Checkpoint
    obs: Array
    noise: Array
    a: Array

    @classmethod
    def of(cls, checkpoint: Checkpoint, obs: Array, rng: np.random.Generator) -> Point:
        """The chain at `obs`; the guidance weight is that which makes w‖∇Q‖ comparable to ‖v‖."""
        noise = rng.standard_normal((len(obs), checkpoint.flat_action_dim))
        chain = trace(checkpoint.flow, obs, estimator="qgf", weight=0.0, noise=noise)
        weight = float(np.linalg.norm(chain.v) / max(np.linalg.norm(chain.g), 1e-12)) / 4
        chain = trace(checkpoint.flow, obs, estimator="qgf", weight=weight, noise=noise)
        return cls(checkpoint, chain.obs, noise, chain.a)


def primitives(point: Point) -> dict[str, Rule]:
    """Each primitive on the values that it meets inside this checkpoint's networks."""
    ck = point.checkpoint
    k = len(point.a) // 2
    x = np.concatenate([point.obs, point.a[k]], axis=1)
    first = ck.target_critic.layers[0]
    hidden = linear.linear(x, first.kernel, first.bias)[0]
    time = np.full(len(x), k / len(point.a))
    width = hidden.shape[-1]
    scale = first.scale if first.scale is not None else np.ones((len(hidden), width))
    offset = first.offset if first.offset is not None else np.zeros((len(hidden), width))
    q = ck.flow.critic.forward(point.obs, point.a[k])[0]
    # where members tie, the derivative is a convention that no oracle can see (tests state it)
    q = q[:, (np.sort(q, axis=0)[1:2] != q.min(axis=0)).all(axis=0)]
    parts = (point.obs, point.a[k])

    def cached(forward: Callable[..., Any], product: Callable[..., Any]) -> Callable[..., Any]:
        return lambda value, u: product(u, forward(value)[1])

    def rule(forward: Callable[..., Any], module: Any, name: str, value: Any) -> Rule:
        jvp, vjp = getattr(module, f"{name}_jvp"), getattr(module, f"{name}_vjp")
        return lambda v: forward(v)[0], cached(forward, jvp), cached(forward, vjp), value

    def dense(v: Any) -> Any:
        return linear.linear(v, first.kernel, first.bias)

    def norm(v: Any) -> Any:
        return layer_norm.layer_norm(v, scale, offset)

    table: dict[str, Rule] = {
        "linear": rule(dense, linear, "linear", x),
        "linear parameters": (
            lambda p: linear.linear(x, *p)[0],
            None,
            lambda p, u: linear.linear_vjp_params(u, linear.linear(x, *p)[1]),
            (first.kernel, first.bias),
        ),
        "layer_norm": rule(norm, layer_norm, "layer_norm", hidden),
        "layer_norm parameters": (
            lambda p: layer_norm.layer_norm(hidden, *p)[0],
            None,
            lambda p, u: layer_norm.layer_norm_vjp_params(u, layer_norm.layer_norm(hidden, *p)[1]),
            (scale, offset),
        ),
        "time_embedding": rule(
            time_embedding.time_embedding, time_embedding, "time_embedding", time
        ),
        "clip": rule(clip.clip, clip, "clip", point.a[k]),
        "concat": (
            lambda v: structure.concat(*v)[0],
            lambda v, u: structure.concat_jvp(u),
            lambda v, u: tuple(structure.concat_vjp(u, structure.concat(*v)[1], i) for i in (0, 1)),
            parts,
        ),
        "squeeze_last": (
            structure.squeeze_last,
            lambda v, u: structure.squeeze_last(u),
            lambda v, u: structure.squeeze_last_vjp(u),
            hidden[..., :1],
        ),
        "batch_sum": (
            lambda v: v.sum()[None],
            None,
            lambda v, u: structure.batch_sum_vjp(v, u[0]),
            hidden[..., 0].ravel(),
        ),
    }
    for name in activations.ACTIVATIONS:
        table[f"activation {name}"] = rule(
            lambda v, name=name: activations.activation(v, name), activations, "activation", hidden
        )
    for name in ensemble.AGGREGATIONS if q.size else ():
        table[f"ensemble_reduce {name}"] = rule(
            lambda v, name=name: ensemble.ensemble_reduce(v, name), ensemble, "ensemble_reduce", q
        )
    return table


def networks(point: Point) -> dict[str, Rule]:
    """The networks in their inputs and in their parameters, and the rollout."""
    nets = point.checkpoint.networks()
    k = len(point.a) // 2
    obs, action, t = point.obs, point.a[k], k / len(point.a)

    def in_parameters(net: Any, *inputs: Any) -> Rule:
        params: MLPParams = net.params

        def vjp(p: Any, u: Array) -> tuple[Array, ...]:
            there = replace(net, params=params.replace(p))
            bar: MLPParams = there.vjp_params(u, there.forward(*inputs)[1])
            return bar.arrays()

        def forward(p: Any) -> Array:
            return np.asarray(replace(net, params=params.replace(p)).forward(*inputs)[0])

        return forward, None, vjp, params.arrays()

    def in_action(net: Any) -> Rule:
        return (
            lambda a: net.forward(obs, a, t)[0],
            lambda a, u: net.jvp(u, net.forward(obs, a, t)[1]),
            lambda a, u: net.vjp(u, net.forward(obs, a, t)[1]),
            action,
        )

    auxiliary = point.checkpoint.flow.auxiliary
    beside: dict[str, Any] = {"robust_q": auxiliary.robust_q, "distill": auxiliary.distill}
    if auxiliary.cfgrl is not None:
        beside["cfgrl"] = auxiliary.cfgrl[1]
    rules: dict[str, Rule] = {}
    for name, net in beside.items():
        if net is not None:
            rules[f"{name} in the action"] = in_action(net)
            rules[f"{name} in the parameters"] = in_parameters(net, obs, action, t)

    no_time = np.zeros((len(obs), DIM))
    v, q, value, flow = nets.policy, nets.target_critic, nets.value, point.checkpoint.flow
    return {
        "velocity in the action": in_action(v),
        "velocity in observation and action": (
            lambda x: v.forward(x[0], x[1], t)[0],
            lambda x, u: v.jvp_inputs(u[0], u[1], no_time, v.forward(x[0], x[1], t)[1]),
            lambda x, u: v.vjp_inputs(u, v.forward(x[0], x[1], t)[1])[:2],
            (obs, action),
        ),
        "velocity in the time": (
            lambda x: v.forward(obs, action, x)[0],
            lambda x, u: v.jvp_time(np.zeros_like(action), u, v.forward(obs, action, x)[1]),
            None,
            np.full(len(obs), t),
        ),
        "velocity in the parameters": in_parameters(v, obs, action, t),
        "target critic in the action": (
            lambda a: q.forward(obs, a)[0],
            lambda a, u: q.jvp(u, q.forward(obs, a)[1]),
            lambda a, u: q.vjp(u, q.forward(obs, a)[1]),
            action,
        ),
        "target critic in observation and action": (
            lambda x: q.forward(*x)[0],
            lambda x, u: q.jvp_inputs(u[0], u[1], q.forward(*x)[1]),
            lambda x, u: q.vjp_inputs(u, q.forward(*x)[1]),
            (obs, action),
        ),
        "critic in the parameters": in_parameters(nets.critic, obs, action),
        "target critic in the parameters": in_parameters(q, obs, action),
        "value in the observation": (
            lambda s: value.forward(s)[0],
            lambda s, u: value.jvp(u, value.forward(s)[1]),
            lambda s, u: value.vjp(u, value.forward(s)[1]),
            obs,
        ),
        "value in the parameters": in_parameters(value, obs),
        "rollout": (
            lambda a: rollout(flow.field, obs, a, flow.times)[0],
            lambda a, u: rollout_jvp(flow.field, u, rollout(flow.field, obs, a, flow.times)[1]),
            lambda a, u: rollout_vjp(flow.field, u, rollout(flow.field, obs, a, flow.times)[1]),
            point.noise,
        ),
        **rules,
    }
