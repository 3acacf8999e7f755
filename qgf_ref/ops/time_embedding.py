"""Sinusoidal embedding of the flow time."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.structure import cast, per_row

Precision = Literal["exact", "float32"]

PRECISIONS = ("exact", "float32")
DIM = 16
TIME_SCALE = 10000.0
MAX_PERIOD = 10000.0


class TimeEmbeddingCache(NamedTuple):
    """What `time_embedding` saves: the angular frequencies, and the embedding itself."""

    omega: Array
    embedding: Array


def require_precision(name: str) -> None:
    """Raise InputError, listing the valid names, unless `name` is a precision."""
    if name not in PRECISIONS:
        raise unknown_name("time embedding precision", name, PRECISIONS)


def embedded_time(
    kernels: Kernels, time: float | Array, action: Array, precision: Precision, like: Array
) -> tuple[Array, TimeEmbeddingCache]:
    """What a network is given of the time: emb(t) (B, DIM) for time () or (B,), a row each of
    action (B, D), in the dtype of `like`.
    """
    t = kernels(per_row, time, action)
    embedding, cache = kernels(time_embedding, t, DIM, precision)
    return kernels(cast, embedding, like), cache


def time_embedding(
    t: Array,
    dim: int = DIM,
    precision: Precision = "exact",
    scale: float = TIME_SCALE,
    max_period: float = MAX_PERIOD,
    divisor: int | None = None,
) -> tuple[Array, TimeEmbeddingCache]:
    """[cos ω₀t … cos ω_{h−1}t, sin ω₀t … sin ω_{h−1}t], ω_i = 10⁴·exp(−ln(10⁴)·i/h), h = dim/2.

    t         (B,), flow time: 0 is noise, 1 is action
    returns   (B, dim)
    precision "exact": computed in float64 (or complex128, if t is complex).
              "float32": every operation rounded to float32, as the official code does; angles
              reach 10⁴ rad, so this differs from the exact embedding by up to 4e-4.
    scale, max_period, divisor  10⁴, 10⁴ and h: ports that use others are simulated with them

    jvp   e_dot = [−ω sin ωt, ω cos ωt]·t_dot
    vjp   t_bar = Σ_i e_bar_i·(∂e_i/∂t)
    Source: official.md, section 1. Cosines come first.
    """
    require_precision(precision)
    half = dim // 2
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be an even number ≥ 2, got {dim}")
    frequencies = angular_frequencies(half, precision, max_period, divisor)
    if precision == "float32":
        t32 = np.asarray(t).astype(np.float32)
        angle = (t32 * np.float32(scale))[:, None] * frequencies
        omega = np.float32(scale) * frequencies
    else:
        omega = scale * frequencies
        angle = np.asarray(t)[:, None] * omega
    embedding = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    return embedding, TimeEmbeddingCache(omega, embedding)


def angular_frequencies(
    half: int,
    precision: Precision = "exact",
    max_period: float = MAX_PERIOD,
    divisor: int | None = None,
) -> Array:
    """exp(−ln(max_period)·i/divisor), i = 0 … half − 1, rounded as `precision` says."""
    divisor = half if divisor is None else divisor
    if precision == "exact":
        return np.exp(-math.log(max_period) * np.arange(half) / divisor)
    log_step = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    # exp in float64, then rounded: the same bits on every machine, and XLA's
    return np.exp((log_step / np.float32(divisor)).astype(np.float64)).astype(np.float32)


def time_embedding_jvp(t_dot: Array, cache: TimeEmbeddingCache) -> Array:
    """e_dot (B, dim) = [−ω sin ωt, ω cos ωt]·t_dot."""
    return _slope(cache) * t_dot[:, None]


def time_embedding_vjp(e_bar: Array, cache: TimeEmbeddingCache) -> Array:
    """t_bar (B,) = Σ_i e_bar_i·∂e_i/∂t."""
    return (_slope(cache) * e_bar).sum(axis=-1)


def _slope(cache: TimeEmbeddingCache) -> Array:
    cos, sin = np.split(cache.embedding, 2, axis=-1)
    return np.concatenate([-cache.omega * sin, cache.omega * cos], axis=-1)
