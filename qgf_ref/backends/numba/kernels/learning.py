"""The compiled equals of the primitives of `qgf_ref.ops.learning`, on arrays of any shape.

Each returns None where NumPy shall do it: complex numbers, several dtypes, shapes that broadcast in
another way than the primitive documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import updates
from qgf_ref.backends.numba.kernels.leaves import (
    DTYPES,
    Leaves,
    Parameters,
    leaves_of,
    memo_of,
)
from qgf_ref.backends.numba.kernels.memory import address, empty, several
from qgf_ref.ops import learning


def _real(*arrays: Any) -> list[Array] | None:
    """Flat contiguous arrays of one real dtype, or None if NumPy shall have them."""
    dtype = arrays[0].dtype
    if dtype not in DTYPES or any(a.dtype != dtype or not a.size for a in arrays):
        return None
    return [np.ascontiguousarray(a).reshape(-1) for a in arrays]


def _path_point(x0: Array, x1: Array, t: Array) -> tuple[Array, Array] | None:
    flat = _real(x0, x1, t)
    if flat is None or x0.ndim != 2 or x0.shape != x1.shape or t.shape != x0.shape[:1]:
        return None
    point, target = np.empty_like(flat[0]), np.empty_like(flat[0])
    updates.path_point(*flat, *x0.shape, point, target)
    return point.reshape(x0.shape), target.reshape(x0.shape)


def _squared_error(
    y: Array, target: Array, weight: Array | float = 1
) -> tuple[float, Array] | None:
    if not isinstance(weight, np.ndarray):
        weight = np.full(target.shape, weight, target.dtype)
    flat = _real(y, target, weight)
    fits = weight.shape == target.shape and y.shape[y.ndim - target.ndim :] == target.shape
    if flat is None or not fits:
        return None
    y_bar = np.empty_like(flat[0])
    loss = updates.squared_error(*flat, y.size // target.size, y_bar)
    return loss, y_bar.reshape(y.shape)


def _expectile_error(
    q: Array, v: Array, valid: Array, expectile: float
) -> tuple[float, Array] | None:
    flat = _real(q, v, valid)
    if flat is None or not q.shape == v.shape == valid.shape:
        return None
    v_bar = np.empty_like(flat[0])
    return updates.expectile_error(*flat, expectile, v_bar), v_bar.reshape(v.shape)


def _adam_step(
    theta: Array,
    theta_bar: Array,
    mean: Array,
    square: Array,
    count: int,
    learning_rate: float,
    eps: float = learning.EPS,
    eps_root: float = 0.0,
) -> tuple[Array, Array, Array] | None:
    flat = _real(theta, theta_bar, mean, square)
    if flat is None or not theta.shape == theta_bar.shape == mean.shape == square.shape:
        return None
    new = [empty(flat[0].shape, theta.dtype) for _ in range(3)]
    updates.adam_step(*flat, *_of_count(count), learning_rate, eps, eps_root, *new)
    theta, mean, square = (a.reshape(theta.shape) for a in new)
    return theta, mean, square


def _of_count(count: int) -> tuple[float, float, float, float]:
    """β₁, β₂, and what the moments of update number `count` are multiplied by."""
    b1, b2 = learning.BETA1, learning.BETA2
    return b1, b2, 1 / (1 - b1**count), 1 / (1 - b2**count)


def _moving_average(target: Array, online: Array, tau: float) -> Array | None:
    flat = _real(target, online)
    if flat is None or target.shape != online.shape:
        return None
    out = empty(flat[0].shape, target.dtype)
    updates.moving_average(*flat, tau, out)
    return out.reshape(target.shape)


def _sum_of_squares(*arrays: Array) -> float | None:
    listed = _listed(arrays)
    return None if listed is None else float(updates.sum_of_squares(*listed))


def _all_scaled(scale: float, *arrays: Array) -> tuple[Array, ...] | None:
    listed = _listed(arrays)
    if listed is None:
        return None
    table, example = listed
    made, addresses = several(tuple([a.shape for a in arrays]), arrays[0].dtype)
    updates.all_scaled(np.column_stack([table, addresses]), example, scale)
    return tuple(made)


def _listed(arrays: Sequence[Array]) -> tuple[Array, Array] | None:
    """A row for each array, its size and its address; and an array of their dtype. None unless they
    are contiguous and of one real dtype.
    """
    if not arrays:
        return None
    dtype = arrays[0].dtype
    if dtype not in DTYPES or any(a.dtype != dtype or not a.flags.c_contiguous for a in arrays):
        return None
    table = np.array([(a.size, address(a)) for a in arrays], np.int64)
    return table, np.empty(1, dtype)


LEARNING: dict[Callable[..., Any], Callable[..., Any]] = {
    learning.path_point: _path_point,
    learning.squared_error: _squared_error,
    learning.expectile_error: _expectile_error,
    learning.adam_step: _adam_step,
    learning.moving_average: _moving_average,
    learning.sum_of_squares: _sum_of_squares,
    learning.all_scaled: _all_scaled,
}
"""Primitive → its compiled equal."""


def adam_steps(
    params: Parameters,
    params_bar: Parameters,
    mean: Parameters,
    square: Parameters,
    count: int,
    learning_rate: float,
    eps: float = learning.EPS,
    eps_root: float = 0.0,
) -> list[Parameters] | None:
    """`adam_step` of every array, in one call: what θ, m and s become."""
    sets = [leaves_of(each) for each in (params, params_bar, mean, square)]
    made = _beside(params, sets, 3)
    if made is None:
        return None
    table, example, new = made
    updates.adam_steps(table, example, *_of_count(count), learning_rate, eps, eps_root)
    return new


def moving_averages(target: Parameters, online: Parameters, tau: float) -> Parameters | None:
    """`moving_average` of every array, in one call."""
    made = _beside(target, [leaves_of(target), leaves_of(online)], 1)
    if made is None:
        return None
    table, example, new = made
    updates.moving_averages(table, example, tau)
    return new[0]


def _beside(
    params: Parameters, sets: Sequence[Leaves | None], results: int
) -> tuple[Array, Array, list[Parameters]] | None:
    """The table that `updates` takes: a row for each array, its size, the addresses of those in the
    sets, and of as many results; an array of their dtype; the results, structured as `params`.

    None unless the sets are of one real dtype and the same shapes.
    """
    first = sets[0]
    if first is None or any(
        s is None or s.dtype != first.dtype or s.shapes != first.shapes for s in sets
    ):
        return None
    table = np.empty((len(first.shapes), 1 + len(sets) + results), np.int64)
    table[:, 0] = first.sizes
    columns = [s.addresses for s in sets if s is not None]
    new = []
    for _ in range(results):
        arrays, addresses = several(first.shapes, first.dtype)
        columns.append(addresses)
        leaves = Leaves(first.dtype, first.shapes, first.sizes, addresses, first.layers)
        new.append(params.replace(iter(arrays)))
        new[-1].memo.update(memo_of(leaves))
    table[:, 1:] = np.transpose(columns)
    return table, np.empty(1, first.dtype), new
