"""Linear layer, with or without a leading ensemble axis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array


class LinearCache(NamedTuple):
    """What `linear` saves for its products."""

    x: Array
    kernel: Array


def linear(x: Array, kernel: Array, bias: Array) -> tuple[Array, LinearCache]:
    """y = x W + b.

    x      (B, I) or (E, B, I)
    kernel (I, F) or (E, I, F): one matrix, or one for each ensemble member
    bias   (F,) or (E, F)
    y      (B, F), or (E, B, F) when any of them has the ensemble axis; x without that axis is
           shared by all members.

    jvp in x      y_dot = x_dot W
    vjp in x      x_bar = y_bar Wᵀ (summed over the members that share x)
    vjp in W, b   W_bar = xᵀ y_bar, b_bar = Σ_rows y_bar
    Source: flax.linen.Dense, kernel stored (in, out).
    """
    return _times(x, kernel) + bias[..., None, :], LinearCache(x, kernel)


def linear_jvp(x_dot: Array, cache: LinearCache) -> Array:
    """y_dot = x_dot W."""
    return _times(x_dot, cache.kernel)


def linear_vjp(y_bar: Array, cache: LinearCache) -> Array:
    """x_bar = y_bar Wᵀ, shaped like x."""
    x_bar = _times(y_bar, np.swapaxes(cache.kernel, -1, -2))
    return x_bar if x_bar.ndim == cache.x.ndim else x_bar.sum(axis=0)


def linear_vjp_params(y_bar: Array, cache: LinearCache) -> tuple[Array, Array]:
    """W_bar = xᵀ y_bar and b_bar = Σ_rows y_bar."""
    return np.swapaxes(cache.x, -1, -2) @ y_bar, y_bar.sum(axis=-2)


def _times(x: Array, kernel: Array) -> Array:
    """x W. Of complex rows both parts at once, as rows of one real product: W is not converted."""
    if x.dtype.kind != "c" or kernel.dtype.kind == "c":
        return x @ kernel
    rows = x.shape[-2]
    parts = np.concatenate([x.real, x.imag], axis=-2) @ kernel
    shape = (*parts.shape[:-2], rows, parts.shape[-1])
    y = np.empty_like(x, np.result_type(x, kernel), shape=shape)  # of x's class: it may be watched
    y.real[...], y.imag[...] = parts[..., :rows, :], parts[..., rows:, :]
    return y
