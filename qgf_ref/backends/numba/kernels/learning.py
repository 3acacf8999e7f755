"""The compiled equals of the primitives of `qgf_ref.ops.learning`, on arrays of any shape.

Each returns None where NumPy shall do it: complex numbers, several dtypes, shapes that broadcast in
another way than the primitive documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.numba.kernels import updates
from qgf_ref.backends.numba.kernels.memory import address, empty, layout, pieces
from qgf_ref.ops import learning

DTYPES = tuple(np.dtype(name) for name in REAL_DTYPES)
"""What compiled code takes."""


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
    b1, b2 = learning.BETA1, learning.BETA2
    new = [empty(flat[0].shape, theta.dtype) for _ in range(3)]
    updates.adam_step(
        *flat, b1, b2, 1 / (1 - b1**count), 1 / (1 - b2**count), learning_rate, eps, eps_root, *new
    )
    theta, mean, square = (a.reshape(theta.shape) for a in new)
    return theta, mean, square


def _moving_average(target: Array, online: Array, tau: float) -> Array | None:
    flat = _real(target, online)
    if flat is None or target.shape != online.shape:
        return None
    out = empty(flat[0].shape, target.dtype)
    updates.moving_average(*flat, tau, out)
    return out.reshape(target.shape)


LEARNING: dict[Callable[..., Any], Callable[..., Any]] = {
    learning.path_point: _path_point,
    learning.squared_error: _squared_error,
    learning.expectile_error: _expectile_error,
    learning.adam_step: _adam_step,
    learning.moving_average: _moving_average,
}
"""Primitive → its compiled equal."""


def adam_steps(
    leaves: Sequence[Any],
    count: int,
    learning_rate: float,
    eps: float = learning.EPS,
    eps_root: float = 0.0,
) -> list[tuple[Array, Array, Array]] | None:
    """`adam_step` of each (θ, θ_bar, m, s), in one call. What θ, m and s become lies in one piece
    each.
    """
    table, example = _table(leaves), leaves[0][0]
    if table is None:
        return None
    made = [_like([leaf[0] for leaf in leaves]) for _ in range(3)]
    table[:, 5:] = [[address(a) for a in new] for new in zip(*made, strict=True)]
    b1, b2 = learning.BETA1, learning.BETA2
    scales = 1 / (1 - b1**count), 1 / (1 - b2**count)
    updates.adam_steps(table, example.reshape(-1), b1, b2, *scales, learning_rate, eps, eps_root)
    return list(zip(*made, strict=True))


def moving_averages(pairs: Sequence[tuple[Array, Array]], tau: float) -> list[Array] | None:
    """`moving_average` of each (target, online), in one call; the results lie in one piece."""
    table, example = _table(pairs), pairs[0][0]
    if table is None:
        return None
    made = _like([target for target, _ in pairs])
    table[:, 3] = [address(a) for a in made]
    updates.moving_averages(table, example.reshape(-1), tau)
    return made


def _table(leaves: Sequence[Sequence[Array]]) -> Array | None:
    """A row for each: its size, the addresses of its arrays, and room for as many results as
    the kernels of `updates` need. None unless all are contiguous arrays of one real dtype, those
    of a row of one shape.
    """
    dtype = leaves[0][0].dtype
    if dtype not in DTYPES:
        return None
    for leaf in leaves:
        shape = leaf[0].shape
        if any(a.dtype != dtype or a.shape != shape or not a.flags.c_contiguous for a in leaf):
            return None
    inputs = len(leaves[0])
    table = np.empty((len(leaves), 8 if inputs == 4 else 4), np.int64)
    table[:, : inputs + 1] = [[leaf[0].size, *map(address, leaf)] for leaf in leaves]
    return table


def _like(arrays: Sequence[Array]) -> list[Array]:
    """New arrays of the same shapes and dtype, in one piece."""
    shapes = [a.shape for a in arrays]
    dtype = arrays[0].dtype
    return pieces(shapes, *layout(shapes, dtype.itemsize), dtype)[1]
