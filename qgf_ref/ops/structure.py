"""The linear glue between layers: concatenation, scaled addition, constants, sum over the batch.

They have rules of their own because the product ledger must see every operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgf_ref.arrays import Array


def concat(*parts: Array) -> tuple[Array, tuple[int, ...]]:
    """y = [x₁, x₂, …] along the last axis; the cache is the parts' widths."""
    return np.concatenate(parts, axis=-1), tuple(p.shape[-1] for p in parts)


def concat_jvp(parts_dot: Sequence[Array]) -> Array:
    """y_dot = [x₁_dot, x₂_dot, …]."""
    return np.concatenate(tuple(parts_dot), axis=-1)


def concat_vjp(y_bar: Array, cache: tuple[int, ...], part: int) -> Array:
    """The columns of y_bar that belong to part number `part`."""
    start = sum(cache[:part])
    return y_bar[..., start : start + cache[part]]


def axpy(scale: float | Array, x: Array, y: Array) -> Array:
    """z = y + scale·x.

    jvp: z_dot = y_dot + scale·x_dot. vjp: x_bar = scale·z_bar, y_bar = z_bar.
    """
    return y + scale * x


def scaled(scale: float | Array, x: Array) -> Array:
    """y = scale·x: its own jvp and, `scale` being real, its own vjp."""
    return scale * x


def batch_sum_vjp(q: Array, s_bar: float = 1.0) -> Array:
    """q_bar (B,) = s_bar for every row: the cotangent of S = Σ_rows q.

    Guidance differentiates this sum, never the mean, so that rows do not mix.
    """
    return np.full(q.shape, s_bar, dtype=q.real.dtype)


def per_row(value: float | Array, like: Array) -> Array:
    """The value () for every row of `like` (B, …), as (B,); a value that is (B,) already stays."""
    return np.broadcast_to(np.asarray(value), like.shape[:1])


def on_host(x: Array) -> Array:
    """x in NumPy's memory: what decides the shape of what follows, wherever that runs."""
    return x


def zeros(like: Array, columns: int | None = None) -> Array:
    """Zeros shaped like `like`, or with its rows and dtype and another number of columns."""
    shape = like.shape if columns is None else (*like.shape[:-1], columns)
    return np.zeros(shape, like.dtype)


def unit(like: Array, column: int) -> Array:
    """The unit vector e_column for every row of `like` (B, D)."""
    e = np.zeros_like(like)
    e[..., column] = 1
    return e


def kept(x: Array, columns: tuple[int, ...]) -> Array:
    """y (B, D) = x in these columns, 0 in the others: a projection, its own jvp and vjp."""
    y = np.zeros_like(x)
    y[:, list(columns)] = x[:, list(columns)]
    return y


def squeeze_last(x: Array) -> Array:
    """y (…) = x (…, 1): the scalar output of a value network."""
    return x[..., 0]


def squeeze_last_vjp(y_bar: Array) -> Array:
    """x_bar (…, 1) = y_bar (…)."""
    return y_bar[..., None]


def unsqueeze_last(x: Array) -> Array:
    """y (…, 1) = x (…): numbers of rows as a column."""
    return x[..., None]


def cast(x: Array, like: Array) -> Array:
    """x rounded to the real dtype of `like`; complex numbers keep their imaginary part."""
    real = like.real.dtype
    return x.astype(np.result_type(real, np.complex64) if np.iscomplexobj(x) else real)
