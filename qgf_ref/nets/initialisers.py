"""Initial parameters, distributed as the official code's (official.md, section 1, "Init")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.nets.joint import FREQUENCIES, LABEL_COLUMNS, LABELS
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.ops.time_embedding import DIM


def fan_avg_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """U(±√(6/(in + out))) on the last two axes: variance_scaling(1, fan_avg, uniform)."""
    limit = math.sqrt(6 / (shape[-2] + shape[-1]))
    return rng.uniform(-limit, limit, shape)


CUT_DEVIATION = 0.8796256610342398
"""The standard deviation of a standard normal cut at ±2."""


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal cut at ±2σ and rescaled to standard deviation √(1/in): flax's default for Dense."""
    # the quantile function of scipy.stats.truncnorm, whose import takes a second and a call 5 ms
    from scipy.special import log1p, log_ndtr, logsumexp, ndtr, ndtri_exp

    uniform = rng.uniform(size=shape)
    below, mass = log_ndtr(-2.0), log1p(-ndtr(-2.0) - ndtr(-2.0))
    terms = np.full_like(uniform, below), np.log(uniform) + mass
    draws = ndtri_exp(logsumexp(terms, axis=0))
    return draws * (math.sqrt(1 / shape[-2]) / CUT_DEVIATION)


def init_mlp(
    rng: np.random.Generator,
    in_features: int,
    hidden: Sequence[int],
    out_features: int,
    *,
    ensemble: int | None = None,
    norms: int = 0,
    output: Callable[[np.random.Generator, tuple[int, ...]], Array] = fan_avg_uniform,
    dtype: DTypeLike = "float32",
) -> MLPParams:
    """Parameters of any network, drawn layer by layer: kernels fan_avg_uniform, biases 0.

    norms   the first so many hidden layers have a LayerNorm, scale 1 and offset 0
    output  the law of the output layer's kernel
    """
    lead = () if ensemble is None else (ensemble,)
    layers = []
    for i, shape in enumerate(pairwise([in_features, *hidden, out_features])):
        kernel = (output if i == len(hidden) else fan_avg_uniform)(rng, (*lead, *shape))
        wide = (*lead, shape[1])
        scale, offset = (np.ones(wide), np.zeros(wide)) if i < norms else (None, None)
        layers.append(LayerParams(kernel, np.zeros(wide), scale, offset))
    return MLPParams(tuple(layers)).astype(dtype)


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
    norms = len(hidden) - 1 if layer_norm else 0
    width = obs_dim + action_dim + DIM
    return init_mlp(rng, width, hidden, action_dim, norms=norms, output=lecun_normal, dtype=dtype)


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
    norms = len(hidden) if layer_norm else 0
    return init_mlp(rng, in_features, hidden, 1, ensemble=ensemble, norms=norms, dtype=dtype)


def init_table(rng: np.random.Generator, dtype: DTypeLike = "float32") -> Array:
    """The table of a label's embedding, N(0, 1/32): flax's default for Embed."""
    draws = rng.standard_normal((LABELS, LABEL_COLUMNS)) / np.sqrt(LABEL_COLUMNS)
    return draws.astype(dtype)


def init_encoder(
    rng: np.random.Generator, hidden: Sequence[int], columns: int, dtype: DTypeLike = "float32"
) -> MLPParams:
    """Parameters that encode a step: frequencies N(0, 0.2²), MLP₀ of these widths, no LayerNorm."""
    frequencies = 0.2 * rng.standard_normal((FREQUENCIES, 1))
    layers = init_mlp(rng, 2 * FREQUENCIES, hidden, columns).layers
    return MLPParams(layers, frequencies).astype(dtype)
