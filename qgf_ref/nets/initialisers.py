"""Initial parameters, distributed as the official code's (official.md, section 1, "Init")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike
from scipy.stats import truncnorm

from qgf_ref.arrays import Array
from qgf_ref.nets.conditional_velocity import CONDITIONS, WIDTH, ConditionalParams
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.ops.time_embedding import DIM


def fan_avg_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """U(±√(6/(in + out))) on the last two axes: variance_scaling(1, fan_avg, uniform)."""
    limit = math.sqrt(6 / (shape[-2] + shape[-1]))
    return rng.uniform(-limit, limit, shape)


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal cut at ±2σ and rescaled to standard deviation √(1/in): flax's default for Dense."""
    cut = truncnorm(-2, 2)
    draws = np.asarray(cut.ppf(rng.uniform(size=shape)))
    return draws * (math.sqrt(1 / shape[-2]) / float(cut.std()))


def _layer(kernel: Array, norm: bool) -> LayerParams:
    wide = (*kernel.shape[:-2], kernel.shape[-1])
    scale, offset = (np.ones(wide), np.zeros(wide)) if norm else (None, None)
    return LayerParams(kernel, np.zeros(wide), scale, offset)


def init_velocity(
    rng: np.random.Generator,
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    *,
    layer_norm: bool = True,
    dtype: DTypeLike = "float32",
) -> MLPParams:
    """Parameters of `MLPVelocity`: LayerNorm on every hidden layer but the last.

    action_dim is D. Hidden kernels fan_avg_uniform, the output kernel lecun_normal, biases 0.
    """
    sizes = [obs_dim + action_dim + DIM, *hidden]
    layers = [
        _layer(fan_avg_uniform(rng, shape), layer_norm and i < len(hidden) - 1)
        for i, shape in enumerate(pairwise(sizes))
    ]
    layers.append(_layer(lecun_normal(rng, (sizes[-1], action_dim)), norm=False))
    return MLPParams(tuple(layers)).astype(dtype)


def init_value(
    rng: np.random.Generator,
    in_features: int,
    hidden: Sequence[int],
    *,
    ensemble: int | None = None,
    layer_norm: bool = True,
    dtype: DTypeLike = "float32",
) -> MLPParams:
    """Parameters of `MLPValue`, or of `MLPCritic` (in_features O + D, ensemble E).

    LayerNorm on every hidden layer; all kernels fan_avg_uniform, biases 0, members independent.
    """
    lead = () if ensemble is None else (ensemble,)
    sizes = [in_features, *hidden, 1]
    return MLPParams(
        tuple(
            _layer(fan_avg_uniform(rng, (*lead, *shape)), layer_norm and i < len(hidden))
            for i, shape in enumerate(pairwise(sizes))
        )
    ).astype(dtype)


def init_conditional(
    rng: np.random.Generator,
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    *,
    dtype: DTypeLike = "float32",
) -> ConditionalParams:
    """Parameters of `ConditionalVelocity`: `init_velocity`'s, and a table N(0, 1/32).

    The table's law is flax's default for Embed.
    """
    table = rng.standard_normal((CONDITIONS, WIDTH)) / np.sqrt(WIDTH)
    trunk = init_velocity(rng, obs_dim + WIDTH, action_dim, hidden, dtype=dtype)
    return ConditionalParams(trunk.layers, table.astype(dtype))
