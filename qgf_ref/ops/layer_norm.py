"""Layer normalisation over the last axis."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name

Variance = Literal["fast", "two_pass"]

EPS = 1e-6
"""flax's default, inside the square root. PyTorch's is 1e-5."""


class LayerNormCache(NamedTuple):
    """What `layer_norm` saves for its products."""

    x_hat: Array
    rstd: Array
    scale: Array


def layer_norm(
    x: Array, scale: Array, offset: Array, eps: float = EPS, variance: Variance = "fast"
) -> tuple[Array, LayerNormCache]:
    """y = x̂ γ + β with x̂ = (x − mean x)·rstd and rstd = 1/√(var x + eps).

    x             (..., B, F)
    scale, offset (F,) or, for an ensemble, (E, F): γ and β
    eps           inside the square root
    variance      "fast" (flax's default): max(0, mean x² − (mean x)²); "two_pass": mean of
                  (x − mean x)². Equal in exact arithmetic, and apart in float32 once |mean| is
                  well above the standard deviation. Both are biased (divided by F).

    jvp   x̂_dot = rstd·(ẋ − mean ẋ − x̂·mean(x̂·(ẋ − mean ẋ))),  y_dot = γ·x̂_dot
    vjp   with x̂_bar = γ·y_bar:  x_bar = rstd·(x̂_bar − mean x̂_bar − x̂·mean(x̂·x̂_bar))
    vjp in γ, β   γ_bar = Σ_rows y_bar·x̂,  β_bar = Σ_rows y_bar
    Source: flax.linen.LayerNorm (official.md, section 1).
    """
    mean = _mean(x)
    centred = x - mean
    if variance == "fast":
        var = _mean(x * x) - mean * mean
        # the real part decides, so that a complex step follows the same branch
        var = np.where(var.real > 0, var, 0)
    elif variance == "two_pass":
        var = _mean(centred * centred)
    else:
        raise unknown_name("variance", variance, ("fast", "two_pass"))
    rstd = 1 / np.sqrt(var + eps)
    x_hat = centred * rstd
    return x_hat * scale[..., None, :] + offset[..., None, :], LayerNormCache(x_hat, rstd, scale)


def layer_norm_jvp(x_dot: Array, cache: LayerNormCache) -> Array:
    """y_dot = γ·rstd·(ẋ − mean ẋ − x̂·mean(x̂·(ẋ − mean ẋ)))."""
    return cache.scale[..., None, :] * _normalised_jacobian(x_dot, cache)


def layer_norm_vjp(y_bar: Array, cache: LayerNormCache) -> Array:
    """x_bar = rstd·(x̂_bar − mean x̂_bar − x̂·mean(x̂·x̂_bar)) with x̂_bar = γ·y_bar."""
    return _normalised_jacobian(cache.scale[..., None, :] * y_bar, cache)


def layer_norm_vjp_jvp(
    x_dot: Array, y_bar: Array, y_bar_dot: Array, cache: LayerNormCache
) -> Array:
    """x_bar_dot: the derivative of `layer_norm_vjp` along (x_dot, y_bar_dot), γ held.

    With u = γ·y_bar, u_dot = γ·y_bar_dot, P(u) = rstd·(u − mean u − x̂·mean(x̂·u)):
    x̂_dot    = P(x_dot),  rstd_dot = −rstd²·mean(x̂·x_dot)
    x_bar_dot = P(u_dot) + (rstd_dot/rstd)·P(u) − rstd·(x̂_dot·mean(x̂·u) + x̂·mean(x̂_dot·u))
    The same for both formulas of the variance. Where "fast" was clamped at 0, the vjp keeps the
    variance's derivative (clamped by rounding, it is that of the exact variance), and so does this.
    """
    x_hat, rstd, scale = cache.x_hat, cache.rstd, cache.scale[..., None, :]
    u = scale * y_bar
    x_hat_dot = _normalised_jacobian(x_dot, cache)
    relative = -rstd * _mean(x_hat * x_dot)
    x_bar_dot = _normalised_jacobian(scale * y_bar_dot + relative * u, cache)
    along = x_hat_dot * _mean(x_hat * u)
    return x_bar_dot - rstd * (along + x_hat * _mean(x_hat_dot * u))


def layer_norm_vjp_params(y_bar: Array, cache: LayerNormCache) -> tuple[Array, Array]:
    """γ_bar = Σ_rows y_bar·x̂ and β_bar = Σ_rows y_bar."""
    return (y_bar * cache.x_hat).sum(axis=-2), y_bar.sum(axis=-2)


def _mean(x: Array) -> Array:
    # x.mean(axis=-1, keepdims=True), the same bits without its questions
    return np.asarray(np.add.reduce(x, axis=-1, keepdims=True) / x.shape[-1])


def _normalised_jacobian(u: Array, cache: LayerNormCache) -> Array:
    # ∂x̂/∂x is symmetric, so the same product serves jvp and vjp
    x_hat = cache.x_hat
    centred = u - _mean(u)
    return cache.rstd * (centred - x_hat * _mean(x_hat * u))
