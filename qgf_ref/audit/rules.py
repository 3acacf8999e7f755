"""The audit's first-order rules: primitives and networks, at a checkpoint's own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Acting, Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.part import Part
from qgf_ref.arrays import Array
from qgf_ref.flow.euler import rollout, rollout_jvp, rollout_vjp
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops import activations, clip, ensemble, layer_norm, linear, structure, time_embedding
from qgf_ref.sampling import trace

Rule = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any] | None, Any]
"""f, jvp(x, x_dot), vjp(x, y_bar), x: what there is of them."""
MATRICES = {"obs": "observation", "action": "action", "noise": "noise", "goal": "goal"}
"""The inputs in which networks are differentiated."""


@dataclass(frozen=True)
class AuditedStates:
    """Where the derivatives are taken: real states of this checkpoint, in float64.

    obs (B, O); noise (B, D); a (T, B, D), a chain guided by `qgf`; of an agent without a flow (1,
    B, D), beside the chunks that it answers with, or normal where it does not act
    """

    checkpoint: Checkpoint
    obs: Array
    noise: Array
    a: Array

    @classmethod
    def of(cls, checkpoint: Checkpoint, obs: Array, rng: np.random.Generator) -> AuditedStates:
        """The chain at `obs`; the guidance weight is that which makes w‖∇Q‖ comparable to ‖v‖."""
        noise = rng.standard_normal((len(obs), checkpoint.flat_action_dim))
        flow = flow_of(checkpoint)
        if flow is None:
            return cls(checkpoint, obs, noise, _answers(checkpoint, obs, noise)[None])
        chain = trace(flow, obs, estimator="qgf", weight=0.0, noise=noise)
        weight = float(np.linalg.norm(chain.v) / max(np.linalg.norm(chain.g), 1e-12)) / 4
        chain = trace(flow, obs, estimator="qgf", weight=weight, noise=noise)
        return cls(checkpoint, chain.obs, noise, chain.a)

    @property
    def inputs(self) -> dict[str, Any]:
        """Every input that a network may have, by name, at mid-chain: obs (B, O), action (B, D)."""
        k = len(self.a) // 2
        time = k / len(self.a)
        return {
            "obs": self.obs, "action": self.a[k], "noise": self.noise, "time": time,
            "label": 1, "step": 2,
        }  # fmt: skip


def flow_of(checkpoint: Checkpoint) -> GuidedFlow | None:
    """The checkpoint's flow, as reference; None for an agent without one."""
    has_flow = type(checkpoint.agent).flow is not Agent.flow
    return checkpoint.flow if has_flow else None


def _answers(checkpoint: Checkpoint, obs: Array, noise: Array) -> Array:
    try:
        # not where they are: at the bound, the clip has a kink
        return checkpoint.agent.act(checkpoint, obs, noise, Acting()) + 0.1 * noise
    except NotImplementedError:
        return noise


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


def examined(checkpoint: Checkpoint) -> Part:
    """The network whose values the primitives are tried on: a critic that acts, if there is one."""
    present = [part for part in checkpoint.agent.parts if part.name in checkpoint.params]
    return min(present, key=lambda part: (not part.ensemble, not part.acting))


def title(checkpoint: Checkpoint, part: str) -> str:
    """What reports call a network."""
    field = getattr(checkpoint.agent, "field", None)
    return "velocity" if part == field else part.replace("_", " ")


def primitives(point: AuditedStates) -> dict[str, Rule]:
    """Each primitive on the values that it meets inside this checkpoint's networks."""
    part, inputs = examined(point.checkpoint), point.inputs
    net = point.checkpoint.network(part.name)
    q, cache = net.joint(**inputs)
    x, first = cache.layers.blocks[0].linear.x, net.params.layers[0]
    parts, action = (inputs["obs"], inputs["action"]), inputs["action"]
    hidden = linear.linear(x, first.kernel, first.bias)[0]
    time = np.full(len(x), inputs["time"])
    width = hidden.shape[-1]
    scale = first.scale if first.scale is not None else np.ones((len(hidden), width))
    offset = first.offset if first.offset is not None else np.zeros((len(hidden), width))
    if part.ensemble:
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
        "clip": _primitive(clip, "clip", action),
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
    for name in (*ensemble.AGGREGATIONS, "lcb=0.5") if part.ensemble and q.size else ():
        table[f"ensemble_reduce {name}"] = _primitive(ensemble, "ensemble_reduce", q, name)
    return table


def networks(point: AuditedStates) -> dict[str, Rule]:
    """The agent's networks in their inputs and in their parameters, and the rollout of its flow.

    A network that another one follows stands beside that one, in its parameters alone.
    """
    checkpoint, present = point.checkpoint, point.checkpoint.params
    parts = [part for part in checkpoint.agent.parts if part.name in present]
    followed = {part.target_of for part in parts}
    rules: dict[str, Rule] = {}
    for part in parts:
        if part.name in followed:
            continue
        inputs = part.fitted(point.inputs)
        for of, rule in _in_inputs(checkpoint.network(part.name), inputs).items():
            rules[f"{title(checkpoint, part.name)} in {of}"] = rule
        for name in (part.target_of, part.name):
            if name is not None and name in present:
                rule = _in_parameters(checkpoint.network(name), inputs)
                rules[f"{title(checkpoint, name)} in the parameters"] = rule
    flow = flow_of(checkpoint)
    if flow is None:
        return rules
    rules["rollout"] = _rule(
        lambda a: rollout(flow.field, point.obs, a, flow.times),
        point.noise,
        lambda u, cache: rollout_jvp(flow.field, u, cache),
        lambda u, cache: rollout_vjp(flow.field, u, cache),
    )
    auxiliary = flow.auxiliary
    cfgrl = None if auxiliary.cfgrl is None else auxiliary.cfgrl[1]
    beside: dict[str, Any] = {
        "robust_q": auxiliary.robust_q, "distill": auxiliary.distill, "cfgrl": cfgrl
    }  # fmt: skip
    for name, net in beside.items():
        if net is not None:
            rules[f"{name} in the action"] = _in_inputs(net, point.inputs)["the action"]
            rules[f"{name} in the parameters"] = _in_parameters(net, point.inputs)
    return rules


def _in_inputs(net: Any, inputs: dict[str, Any]) -> dict[str, Rule]:
    """A network in its active input, in all that are matrices, and in its time."""
    matrices = [name for name in net.inputs if name in MATRICES]

    def joint(names: Sequence[str], values: Sequence[Any]) -> Any:
        return net.joint(**{**inputs, **dict(zip(names, values, strict=True))})

    rules = {
        f"the {MATRICES[net.active]}": _rule(
            lambda x: joint([net.active], [x]), inputs[net.active], net.jvp, net.vjp
        )
    }
    if len(matrices) > 1:
        places = [net.inputs.index(name) for name in matrices]
        rules[" and ".join(MATRICES[name] for name in matrices)] = _rule(
            lambda x: joint(matrices, x),
            tuple(inputs[name] for name in matrices),
            lambda u, cache: net.joint_jvp(cache, **dict(zip(matrices, u, strict=True))),
            lambda u, cache: tuple(net.vjp_inputs(u, cache)[i] for i in places),
        )
    if {"time", "raw_time"} & set(net.inputs) and hasattr(net, "jvp_time"):
        rows, still = len(inputs[net.active]), np.zeros_like(inputs[net.active])
        rules["the time"] = _rule(
            lambda t: joint(["time"], [t]),
            np.full(rows, inputs["time"]),
            lambda u, cache: net.jvp_time(still, u, cache),
            None,
        )
    return rules


def _in_parameters(net: Any, inputs: dict[str, Any]) -> Rule:
    def forward(arrays: Any) -> tuple[Any, Any]:
        moved = replace(net, params=net.params.replace(arrays))
        y, cache = moved.joint(**inputs)
        return y, (moved, cache)

    return _rule(forward, net.params.arrays(), None, lambda u, c: c[0].vjp_params(u, c[1]).arrays())
