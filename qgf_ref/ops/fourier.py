"""Fourier features of a number with learned frequencies."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array


class FourierCache(NamedTuple):
    """What `fourier_features` saves: 2πk (B,), and the features themselves."""

    turn: Array
    features: Array


def fourier_features(k: Array, frequencies: Array) -> tuple[Array, FourierCache]:
    """f (B, 2n) = [cos φ, sin φ], φ = 2π·k·w. k (B,) real, frequencies w (n, 1).

    jvp in w   f_dot = [−sin φ, cos φ]·2πk·w_dot
    vjp in w   w_bar_i = Σ_b 2πk_b(−sin φ_bi·f_bar_bi + cos φ_bi·f_bar_b,n+i)
    Source: baselines.md, section 7. Cosines come first.
    """
    turn = k * k.dtype.type(2 * math.pi)
    angle = turn[:, None] * frequencies[:, 0]
    features = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    return features, FourierCache(turn, features)


def fourier_features_jvp_params(frequencies_dot: Array, cache: FourierCache) -> Array:
    """f_dot (B, 2n) along w_dot (n, 1)."""
    cos, sin = np.split(cache.features, 2, axis=-1)
    angle_dot = cache.turn[:, None] * frequencies_dot[:, 0]
    return np.concatenate([-sin * angle_dot, cos * angle_dot], axis=-1)


def fourier_features_vjp_params(f_bar: Array, cache: FourierCache) -> Array:
    """w_bar (n, 1), summed over the batch. f_bar (B, 2n)."""
    cos, sin = np.split(cache.features, 2, axis=-1)
    of_cos, of_sin = np.split(f_bar, 2, axis=-1)
    angle_bar = cos * of_sin - sin * of_cos
    w_bar: Array = (cache.turn[:, None] * angle_bar).sum(axis=0)[:, None]
    return w_bar
