"""The velocity field of CFGRL, conditioned on whether the action is better than the policy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import (
    MLPCache,
    MLPOptions,
    MLPParams,
    mlp,
    mlp_jvp,
    mlp_vjp,
    mlp_vjp_params,
)
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.lookup import LookupCache, lookup, lookup_vjp_params
from qgf_ref.ops.structure import concat, concat_jvp, concat_vjp, zeros
from qgf_ref.ops.time_embedding import DIM, Precision, embedded_time

CONDITIONS, WIDTH = 2, 32
"""Rows of the embedding's table, o = 0 and o = 1, and its width."""


@dataclass(frozen=True)
class ConditionalParams(MLPParams):
    """The MLP's layers, and the table (2, 32) of Embed(o). Also holds their gradients."""

    table: Array

    def named(self) -> Iterator[tuple[str, Array]]:
        """('table', array), then the layers' as in `MLPParams`."""
        yield "table", self.table
        yield from super().named()

    def arrays(self) -> tuple[Array, ...]:
        """The arrays alone, in the order of `named`."""
        return (self.table, *super().arrays())

    def map(self, f: Callable[..., Array], *others: MLPParams) -> ConditionalParams:
        """f applied to corresponding arrays of this and the other parameter sets."""
        leaves = zip(self.arrays(), *(other.arrays() for other in others), strict=True)
        return self.replace(f(*leaf) for leaf in leaves)

    def replace(self, arrays: Iterator[Array] | tuple[Array, ...]) -> ConditionalParams:
        """The same structure around other arrays, given in the order of `named`."""
        table, *rest = arrays
        return ConditionalParams(MLPParams(self.layers).replace(tuple(rest)).layers, table)

    def astype(self, dtype: DTypeLike) -> ConditionalParams:
        """Every array in another dtype."""
        return self.map(lambda a: a.astype(dtype))


class ConditionalCache(NamedTuple):
    """What `ConditionalVelocity.forward` saves."""

    lookup: LookupCache
    widths: tuple[int, ...]
    layers: MLPCache


@dataclass(frozen=True)
class ConditionalVelocity:
    """v(s, a, t | o) = MLP([s, a, emb(t), Embed(o)]) at a given o: a `VelocityField`.

    condition  o, 0 or 1; or one for each row (B,), integers
    Source: official.md, section 1 (CFGRL); method.md, section 4.
    """

    params: ConditionalParams
    options: MLPOptions = MLPOptions()
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels
    condition: int | Array = 0

    def given(self, condition: int | Array) -> ConditionalVelocity:
        """The field at another o."""
        return replace(self, condition=condition)

    @property
    def action_dim(self) -> int:
        """D."""
        return self.params.out_features

    @property
    def dtype(self) -> np.dtype[Any]:
        """The parameters' dtype."""
        return self.params.layers[0].kernel.dtype

    @property
    def obs_dim(self) -> int:
        """O."""
        return self.params.in_features - self.action_dim - DIM - self.params.table.shape[1]

    def forward(
        self, obs: Array, action: Array, time: float | Array
    ) -> tuple[Array, ConditionalCache]:
        """v (B, D). obs (B, O), action (B, D), time () or (B,) in [0, 1]."""
        kernel = self.params.layers[0].kernel
        embedding, _ = embedded_time(self.kernels, time, action, self.embedding, kernel)
        label, saved = self.kernels(lookup, self.params.table, self.condition, action)
        x, widths = self.kernels(concat, obs, action, embedding, label)
        v, layers = mlp(self.params, x, self.options, self.kernels)
        return v, ConditionalCache(saved, widths, layers)

    def jvp(self, action_dot: Array, cache: ConditionalCache) -> Array:
        """v_dot = (∂v/∂a) action_dot, (B, D)."""
        obs_dot, embedding_dot, label_dot = (
            self.kernels(zeros, action_dot, cache.widths[i]) for i in (0, 2, 3)
        )
        x_dot = self.kernels(concat_jvp, (obs_dot, action_dot, embedding_dot, label_dot))
        return mlp_jvp(x_dot, cache.layers, self.kernels)

    def vjp(self, velocity_bar: Array, cache: ConditionalCache) -> Array:
        """a_bar = (∂v/∂a)ᵀ velocity_bar, (B, D)."""
        x_bar = mlp_vjp(velocity_bar, cache.layers, self.kernels)
        return self.kernels(concat_vjp, x_bar, cache.widths, 1)

    def vjp_params(self, velocity_bar: Array, cache: ConditionalCache) -> ConditionalParams:
        """params_bar = (∂v/∂θ)ᵀ velocity_bar, summed over the batch, the table's by scatter-add."""
        x_bar, layers_bar = mlp_vjp_params(velocity_bar, cache.layers, self.kernels)
        assert x_bar is not None
        label_bar = self.kernels(concat_vjp, x_bar, cache.widths, 3)
        table_bar = self.kernels(lookup_vjp_params, label_bar, cache.lookup)
        return ConditionalParams(layers_bar.layers, table_bar)
