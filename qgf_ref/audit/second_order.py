"""The audit's second-order rules: each vjp as a function of its own, and the jvp through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.rules import AuditedStates, Rule
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
    members' cotangent held, and the aggregate's gradient. The last two are gradient fields, so
    the product is its own vjp, and the adjoint identity says that the Hessian is symmetric.
    """
    ck = point.checkpoint
    k = len(point.a) // 2
    obs, action = point.obs, point.a[k]
    first = ck.target_critic.layers[0]
    hidden = linear(np.concatenate([obs, action], axis=1), first.kernel, first.bias)[0]
    scale = first.scale if first.scale is not None else np.ones(hidden.shape[-1])
    critic, flow = ck.network("target_critic"), ck.flow
    members = len(critic.forward(obs[:1], action[:1])[0])
    # any cotangent of every row and member, all of them different
    q_bar = np.cos(np.arange(members * len(obs))).reshape(members, len(obs))

    def hvp(a: Array, a_dot: Array) -> Array:
        return critic.hvp(a_dot, q_bar, critic.forward(obs, a)[1])

    def curvature(a: Array, a_dot: Array) -> Array:
        return critic_curvature(flow, obs, a)[1].product(a_dot)

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
    table["target critic vjp in the action"] = (
        lambda a: critic.vjp(q_bar, critic.forward(obs, a)[1]), hvp, hvp, action,
    )  # fmt: skip
    table["target critic gradient"] = (
        lambda a: critic_gradient(flow, obs, a).gradient, curvature, curvature, action,
    )  # fmt: skip
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
