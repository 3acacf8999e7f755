"""The audit's second-order rules: each vjp as a function of its own, and the jvp through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.rules import MATRICES, AuditedStates, Rule, examined, flow_of, title
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.queries import critic_curvature, critic_gradient
from qgf_ref.ops.activations import (
    ACTIVATIONS,
    activation,
    activation_vjp,
    activation_vjp_jvp,
)
from qgf_ref.ops.layer_norm import (
    EPS,
    Variance,
    layer_norm,
    layer_norm_vjp,
    layer_norm_vjp_jvp,
)
from qgf_ref.ops.linear import linear

Forward = Callable[[Array], tuple[Array, Any]]


def second_order(point: AuditedStates) -> dict[str, Rule]:
    """The derivative of each vjp on the values that it meets inside this checkpoint's critic.

    A primitive's x_bar(x, y_bar) along both of its arguments; the critic's a_bar(a) with the
    members' cotangent held, and of a flow's the aggregate's gradient. The last two are gradient
    fields, so the product is its own vjp, and the adjoint identity says that the Hessian is
    symmetric.
    """
    ck, part = point.checkpoint, examined(point.checkpoint)
    critic, inputs = ck.network(part.name), point.inputs
    name_of = title(ck, part.name)
    y, cache = critic.joint(**inputs)
    first = critic.params.layers[0]
    hidden = linear(cache.layers.blocks[0].linear.x, first.kernel, first.bias)[0]
    scale = first.scale if first.scale is not None else np.ones(hidden.shape[-1])
    # any cotangent of every row and member, all of them different
    y_bar = np.cos(np.arange(y.size)).reshape(y.shape)

    def at(x: Array) -> Any:
        return critic.joint(**{**inputs, critic.active: x})[1]

    def hvp(x: Array, x_dot: Array) -> Array:
        return critic.hvp(x_dot, y_bar, at(x))

    table: dict[str, Rule] = {}
    variances: tuple[Variance, ...] = ("fast", "two_pass")
    for variance in variances:
        norm = partial(
            layer_norm, scale=scale, offset=np.zeros_like(scale), eps=EPS, variance=variance
        )
        name = f"layer_norm {variance} vjp"
        table[name] = _through(norm, layer_norm_vjp, layer_norm_vjp_jvp, hidden)
    for name in ACTIVATIONS:
        act = partial(activation, name=name)
        table[f"activation {name} vjp"] = _through(act, activation_vjp, activation_vjp_jvp, hidden)
    active = inputs[critic.active]
    table[f"{name_of} vjp in the {MATRICES[critic.active]}"] = (
        lambda x: critic.vjp(y_bar, at(x)), hvp, hvp, active,
    )  # fmt: skip
    flow = flow_of(ck)
    if flow is not None:
        table[f"{name_of} gradient"] = _curvature(flow, point.obs, inputs["action"])
    return table


def _through(
    forward: Forward, vjp: Callable[..., Array], vjp_jvp: Callable[..., Array], x: Array
) -> Rule:
    """x_bar as a function of (x, y_bar), and its jvp."""
    y_bar = np.cos(np.arange(x.size)).reshape(x.shape)
    return (
        lambda z: vjp(z[1], forward(z[0])[1]),
        lambda z, z_dot: vjp_jvp(z_dot[0], z[1], z_dot[1], forward(z[0])[1]),
        None,
        (x, y_bar),
    )


def _curvature(flow: GuidedFlow, obs: Array, action: Array) -> Rule:
    def product(a: Array, a_dot: Array) -> Array:
        return critic_curvature(flow, obs, a)[1].product(a_dot)

    return lambda a: critic_gradient(flow, obs, a).gradient, product, product, action
