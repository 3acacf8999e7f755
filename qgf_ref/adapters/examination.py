"""What an adapter makes sure of before anything relies on somebody's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.adapters.networks import AdaptedCritic, AdaptedField
from qgf_ref.adapters.observations import row_numbers
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.products import MissingProduct

CHECK_ROWS = 3
REPEATS = {"float64": 1e-9, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.1}
"""Relative difference that is called rounding between two calls of one function, or a row in two
batches, by the dtype in which it computes: a GPU sums in no fixed order, and a batch's size chooses
the kernel (1e-6 measured on CPUs in float32, 7e-3 in bfloat16); Dropout and BatchNorm move numbers
by 1e-2 and more, most of them by their own size."""


def relative_distance(actual: Array, expected: Array, beside: Array | None = None) -> float:
    """max|actual − expected| over the root mean square of `beside`, by default of `expected`."""
    size = float(np.sqrt((np.asarray(expected if beside is None else beside, float) ** 2).mean()))
    return float(np.abs(np.asarray(actual, float) - expected).max()) / (size or 1.0)


def examine(flow: GuidedFlow, field: AdaptedField, critic: AdaptedCritic | None) -> None:
    """Call each network three times, and the critic's vjp once.

    Raises InputError unless its numbers are finite, come again, do not depend on the other rows of
    the batch, are no constants of what was drawn while they were compiled, and the critic's
    gradient is not 0 where its values change.
    """
    rng = np.random.default_rng(1)
    obs = _few(field, rng)
    action = rng.standard_normal((len(obs), flow.field.action_dim)).astype(flow.field.dtype)
    time = flow.times[flow.denoise_steps // 2]
    _examine(field, obs, action, lambda s, a: flow.field.forward(s, a, time))
    if critic is not None:
        _require_members_first(critic, flow, obs, action)
        _examine(critic, obs, action, flow.critic.forward)
        _require_gradient(critic, flow, obs, action)


def _few(field: AdaptedField, rng: np.random.Generator) -> Array:
    """Observations (3, O) to call the networks with; rows in another order than they lie in."""
    if field.observations is not None:
        count = field.observations.count
        return row_numbers(count)[np.array([1, 2, 0]) % count]
    return rng.standard_normal((CHECK_ROWS, field.obs_dim)).astype(field.dtype)


def _examine(
    network: AdaptedField | AdaptedCritic,
    obs: Array,
    action: Array,
    call: Callable[[Array, Array], tuple[Array, Any]],
) -> None:
    what, limit = network.function.what, REPEATS[network.function.precision]

    def rows(s: Array, a: Array) -> Array:
        y = call(s, a)[0]
        return y if isinstance(network, AdaptedField) else y.T

    y, cache = call(obs, action)
    first = y if isinstance(network, AdaptedField) else y.T
    if not np.isfinite(first).all():
        raise InputError(
            f"{what} returned NaN or infinity for standard normal actions "
            f"({int((~np.isfinite(first)).sum())} of {first.size} numbers)"
        )
    apart = relative_distance(rows(obs, action), first)
    if not apart <= limit:  # NaN, too
        raise InputError(
            f"{what} gives other numbers when it is called again with the same arguments (by "
            f"{apart:.1g} of their size): Dropout in training mode, noise drawn inside, or state; "
            "draw outside and pass it in, or call .eval()"
        )
    if network.redrawn(cache):
        raise InputError(
            f"{what} is another function each time it is traced: numbers drawn with np.random, or "
            "state that is read in Python, would be compiled in as they are once; draw outside and "
            "pass it in, or jit=False"
        )
    # the same shape, so that nothing is compiled twice
    same = np.zeros(len(obs), int)
    among = relative_distance(rows(obs[same], action[same])[0], first[0], first)
    if not among <= limit:
        raise InputError(
            f"{what} gives a row other numbers where the other rows are others (by "
            f"{among:.1g} of their size): BatchNorm, attention across rows, or observations that "
            "are not selected by row, in the order asked for (see select=…)"
        )


def _require_members_first(
    critic: AdaptedCritic, flow: GuidedFlow, obs: Array, action: Array
) -> None:
    """Of as many members as rows, (B, E) is told from (E, B) by another B."""
    if len(flow.critic.forward(obs, action)[0]) == len(obs):
        flow.critic.forward(obs[1:], action[1:])


def _require_gradient(critic: AdaptedCritic, flow: GuidedFlow, obs: Array, action: Array) -> None:
    what = critic.function.what
    if "vjp" in critic.differenced:
        return  # 2D calls
    q, cache = flow.critic.forward(obs, action)
    try:
        gradient = flow.critic.vjp(np.ones_like(q), cache)
    except MissingProduct:
        return  # whoever needs it is told
    if not np.isfinite(gradient).all():
        raise InputError(f"{what}'s gradient is NaN or infinite for standard normal actions")
    if not gradient.any() and (flow.critic.forward(obs, action / 2)[0] != q).any():
        raise InputError(
            f"{what}'s gradient is 0 though its values change with the action: a stop_gradient, "
            "detach or rounding inside"
        )
