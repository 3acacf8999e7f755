"""The audit's first-order rules: primitives and networks, at a checkpoint's own states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.flow.euler import rollout, rollout_jvp, rollout_vjp
from qgf_ref.ops import activations, clip, ensemble, layer_norm, linear, structure, time_embedding
from qgf_ref.sampling import trace

Rule = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any] | None, Any]
"""f, jvp(x, x_dot), vjp(x, y_bar), x: what there is of them."""


@dataclass(frozen=True)
class AuditedStates:
    """Where the derivatives are taken: real states of this checkpoint, in float64.

    obs (B, O); noise (B, D); a (T, B, D), a chain guided by `qgf`.
    """

    checkpoint: Checkpoint
    obs: Array
    noise: Array
    a: Array

    @classmethod
    def of(cls, checkpoint: Checkpoint, obs: Array, rng: np.random.Generator) -> AuditedStates:
        """The chain at `obs`; the guidance weight is that which makes w‖∇Q‖ comparable to ‖v‖."""
        noise = rng.standard_normal((len(obs), checkpoint.flat_action_dim))
        chain = trace(checkpoint.flow, obs, estimator="qgf", weight=0.0, noise=noise)
        weight = float(np.linalg.norm(chain.v) / max(np.linalg.norm(chain.g), 1e-12)) / 4
        chain = trace(checkpoint.flow, obs, estimator="qgf", weight=weight, noise=noise)
        return cls(checkpoint, chain.obs, noise, chain.a)


def _rule(
    forward: Callable[[Any], tuple[Any, Any]],
    x: Any,
    jvp: Callable[[Any, Any], Any] | None,
    vjp: Callable[[Any, Any], Any] | None,
) -> Rule:
    """Of forward(x) → (y, cache), jvp(x_dot, cache) and vjp(y_bar, cache)."""
    return (
        lambda v: forward(v)[0],
        None if jvp is None else lambda v, u: jvp(u, forward(v)[1]),
        None if vjp is None else lambda v, u: vjp(u, forward(v)[1]),
        x,
    )


def _primitive(module: Any, name: str, x: Any, *rest: Any) -> Rule:
    """Of module.name(x, …), module.name_jvp and module.name_vjp."""
    f, jvp, vjp = (getattr(module, name + suffix) for suffix in ("", "_jvp", "_vjp"))
    return _rule(lambda v: f(v, *rest), x, jvp, vjp)


def _primitive_parameters(module: Any, name: str, x: Array, *parameters: Any) -> Rule:
    f, vjp = getattr(module, name), getattr(module, f"{name}_vjp_params")
    return _rule(lambda p: f(x, *p), parameters, None, vjp)


def primitives(point: AuditedStates) -> dict[str, Rule]:
    """Each primitive on the values that it meets inside this checkpoint's networks."""
    ck = point.checkpoint
    k = len(point.a) // 2
    parts = (point.obs, point.a[k])
    x = np.concatenate(parts, axis=1)
    first = ck.target_critic.layers[0]
    hidden = linear.linear(x, first.kernel, first.bias)[0]
    time = np.full(len(x), k / len(point.a))
    width = hidden.shape[-1]
    scale = first.scale if first.scale is not None else np.ones((len(hidden), width))
    offset = first.offset if first.offset is not None else np.zeros((len(hidden), width))
    q = ck.flow.critic.forward(*parts)[0]
    # where members tie, the derivative is a convention that no oracle can see (tests state it)
    q = q[:, (np.sort(q, axis=0)[1:2] != q.min(axis=0)).all(axis=0)]
    table = {
        "linear": _primitive(linear, "linear", x, first.kernel, first.bias),
        "linear parameters": _primitive_parameters(linear, "linear", x, first.kernel, first.bias),
        "layer_norm": _primitive(layer_norm, "layer_norm", hidden, scale, offset),
        "layer_norm parameters": _primitive_parameters(
            layer_norm, "layer_norm", hidden, scale, offset
        ),
        "time_embedding": _primitive(time_embedding, "time_embedding", time),
        "clip": _primitive(clip, "clip", point.a[k]),
        "concat": _rule(
            lambda v: structure.concat(*v),
            parts,
            lambda u, widths: structure.concat_jvp(u),
            lambda u, widths: tuple(structure.concat_vjp(u, widths, i) for i in (0, 1)),
        ),
        "squeeze_last": _rule(
            lambda v: (structure.squeeze_last(v), None),
            hidden[..., :1],
            lambda u, _: structure.squeeze_last(u),
            lambda u, _: structure.squeeze_last_vjp(u),
        ),
        "batch_sum": _rule(
            lambda v: (v.sum()[None], v),
            hidden[..., 0].ravel(),
            None,
            lambda u, v: structure.batch_sum_vjp(v, u[0]),
        ),
    }
    for name in activations.ACTIVATIONS:
        table[f"activation {name}"] = _primitive(activations, "activation", hidden, name)
    for name in ensemble.AGGREGATIONS if q.size else ():
        table[f"ensemble_reduce {name}"] = _primitive(ensemble, "ensemble_reduce", q, name)
    return table


def networks(point: AuditedStates) -> dict[str, Rule]:
    """The networks in their inputs and in their parameters, and the rollout."""
    checkpoint, flow = point.checkpoint, point.checkpoint.flow
    k = len(point.a) // 2
    obs, action, t = point.obs, point.a[k], k / len(point.a)
    v, q = checkpoint.network("policy"), checkpoint.network("target_critic")

    def in_action(net: Any, *time: Any) -> Rule:
        return _rule(lambda a: net.forward(obs, a, *time), action, net.jvp, net.vjp)

    def in_both(net: Any, *time: Any) -> Rule:
        return _rule(
            lambda x: net.forward(*x, *time),
            (obs, action),
            lambda u, cache: net.joint_jvp(cache, obs=u[0], action=u[1]),
            lambda u, cache: net.vjp_inputs(u, cache)[:2],
        )

    def in_parameters(net: Any, *inputs: Any) -> Rule:
        def forward(arrays: Any) -> tuple[Any, Any]:
            moved = replace(net, params=net.params.replace(arrays))
            y, cache = moved.forward(*inputs)
            return y, (moved, cache)

        return _rule(
            forward, net.params.arrays(), None, lambda u, c: c[0].vjp_params(u, c[1]).arrays()
        )

    of_critic: dict[str, Rule] = {}
    if "critic" in checkpoint.params:
        critic = checkpoint.network("critic")
        of_critic["critic in the parameters"] = in_parameters(critic, obs, action)
    of_value: dict[str, Rule] = {}
    if "value" in checkpoint.params:
        value = checkpoint.network("value")
        of_value["value in the observation"] = _rule(value.forward, obs, value.jvp, value.vjp)
        of_value["value in the parameters"] = in_parameters(value, obs)
    rules = {
        "velocity in the action": in_action(v, t),
        "velocity in observation and action": in_both(v, t),
        "velocity in the time": _rule(
            lambda time: v.forward(obs, action, time),
            np.full(len(obs), t),
            lambda u, cache: v.jvp_time(np.zeros_like(action), u, cache),
            None,
        ),
        "velocity in the parameters": in_parameters(v, obs, action, t),
        "target critic in the action": in_action(q),
        "target critic in observation and action": in_both(q),
        **of_critic,
        "target critic in the parameters": in_parameters(q, obs, action),
        **of_value,
        "rollout": _rule(
            lambda a: rollout(flow.field, obs, a, flow.times),
            point.noise,
            lambda u, cache: rollout_jvp(flow.field, u, cache),
            lambda u, cache: rollout_vjp(flow.field, u, cache),
        ),
    }
    auxiliary = flow.auxiliary
    cfgrl = None if auxiliary.cfgrl is None else auxiliary.cfgrl[1]
    beside = {"robust_q": auxiliary.robust_q, "distill": auxiliary.distill, "cfgrl": cfgrl}
    for name, net in beside.items():
        if net is not None:
            rules[f"{name} in the action"] = in_action(net, t)
            rules[f"{name} in the parameters"] = in_parameters(net, obs, action, t)
    return rules
