"""The linear glue between layers: concatenation, scaled addition, broadcast, sum over the batch.

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
    """z = y + scale·x. jvp: z_dot = y_dot + scale·x_dot. vjp: x_bar = scale·z_bar, y_bar = z_bar."""
    return y + scale * x


def scaled(scale: float | Array, x: Array) -> Array:
    """y = scale·x: its own jvp and, `scale` being real, its own vjp."""
    return scale * x


def batch_sum(q: Array) -> Array:
    """S = Σ_rows q (B,): the scalar whose gradient guidance takes, so that rows do not mix."""
    return q.sum(axis=-1)


def batch_sum_vjp(q: Array, s_bar: float = 1.0) -> Array:
    """q_bar (B,) = s_bar for every row: the sum, not the mean, is differentiated."""
    return np.full(q.shape, s_bar, dtype=q.real.dtype)


def squeeze_last(x: Array) -> Array:
    """y (…) = x (…, 1): the scalar output of a value network."""
    return x[..., 0]


def squeeze_last_vjp(y_bar: Array) -> Array:
    """x_bar (…, 1) = y_bar (…)."""
    return y_bar[..., None]


def cast(x: Array, like: Array) -> Array:
    """x rounded to the real dtype of `like`; complex numbers keep their imaginary part."""
    complex_input = np.iscomplexobj(x)
    return x.astype(np.result_type(like.real.dtype, np.complex64) if complex_input else like.real.dtype)
