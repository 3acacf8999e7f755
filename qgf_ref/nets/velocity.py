"""The velocity field v(s, a, t) of the flow policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

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
from qgf_ref.ops.structure import concat, concat_jvp, concat_vjp, zeros
from qgf_ref.ops.time_embedding import (
    DIM,
    Precision,
    TimeEmbeddingCache,
    embedded_time,
    time_embedding_jvp,
)


class VelocityField(Protocol):
    """What a sampler and an estimator need of v: a forward and its products in the action.

    `MLPVelocity` is the learned one, `qgf_ref.flow.gaussian_mixture.MixtureFlow` an exact one.
    """

    @property
    def action_dim(self) -> int:
        """D, the width of a (flat) action."""
        ...

    @property
    def obs_dim(self) -> int | None:
        """O, or None when observations are not used."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The real dtype in which v is computed."""
        ...

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """v (B, D) and what the products need. obs (B, O), action (B, D), time ()."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂v/∂a) action_dot, (B, D)."""
        ...

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """(∂v/∂a)ᵀ velocity_bar, (B, D)."""
        ...


class LearnedField(VelocityField, Protocol):
    """A velocity field with parameters."""

    @property
    def kernels(self) -> Kernels:
        """What runs the operations between its layers."""
        ...

    def vjp_params(self, velocity_bar: Array, cache: Any) -> MLPParams:
        """(∂v/∂θ)ᵀ velocity_bar, summed over the batch."""
        ...


class VelocityCache(NamedTuple):
    """What `MLPVelocity.forward` saves."""

    time: TimeEmbeddingCache
    widths: tuple[int, ...]
    layers: MLPCache


@dataclass(frozen=True)
class MLPVelocity:
    """v(s, a, t) = MLP([s, a, emb(t)]). Source: official.md, section 1 (ActorFlowField).

    `embedding` chooses how emb(t) is computed: see `qgf_ref.ops.time_embedding`.
    """

    params: MLPParams
    options: MLPOptions = MLPOptions()
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels

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
        return self.params.in_features - self.action_dim - DIM

    def forward(
        self, obs: Array, action: Array, time: float | Array
    ) -> tuple[Array, VelocityCache]:
        """v (B, D). obs (B, O), action (B, D), time () or (B,) in [0, 1]."""
        kernel = self.params.layers[0].kernel
        embedding, time_cache = embedded_time(self.kernels, time, action, self.embedding, kernel)
        x, widths = self.kernels(concat, obs, action, embedding)
        v, layers = mlp(self.params, x, self.options, self.kernels)
        return v, VelocityCache(time_cache, widths, layers)

    def jvp(self, action_dot: Array, cache: VelocityCache) -> Array:
        """v_dot = (∂v/∂a) action_dot, (B, D)."""
        embedding_dot = self.kernels(zeros, action_dot, cache.widths[2])
        return self._jvp(action_dot, embedding_dot, cache)

    def jvp_time(self, action_dot: Array, time_dot: Array, cache: VelocityCache) -> Array:
        """v_dot along a direction in (a, t): action_dot (B, D), time_dot (B,)."""
        embedding_dot = self.kernels(time_embedding_jvp, time_dot, cache.time)
        return self._jvp(action_dot, embedding_dot, cache)

    def _jvp(self, action_dot: Array, embedding_dot: Array, cache: VelocityCache) -> Array:
        obs_dot = self.kernels(zeros, action_dot, cache.widths[0])
        return self.jvp_inputs(obs_dot, action_dot, embedding_dot, cache)

    def jvp_inputs(
        self, obs_dot: Array, action_dot: Array, embedding_dot: Array, cache: VelocityCache
    ) -> Array:
        """v_dot along a direction in all three inputs of the network."""
        x_dot = self.kernels(concat_jvp, (obs_dot, action_dot, embedding_dot))
        return mlp_jvp(x_dot, cache.layers, self.kernels)

    def vjp(self, velocity_bar: Array, cache: VelocityCache) -> Array:
        """a_bar = (∂v/∂a)ᵀ velocity_bar, (B, D)."""
        x_bar = mlp_vjp(velocity_bar, cache.layers, self.kernels)
        return self.kernels(concat_vjp, x_bar, cache.widths, 1)

    def vjp_inputs(self, velocity_bar: Array, cache: VelocityCache) -> tuple[Array, Array, Array]:
        """(s_bar, a_bar, emb_bar) = transposed Jacobian in all three inputs times velocity_bar."""
        x_bar = mlp_vjp(velocity_bar, cache.layers, self.kernels)
        s_bar, a_bar, emb_bar = (
            self.kernels(concat_vjp, x_bar, cache.widths, part) for part in range(3)
        )
        return s_bar, a_bar, emb_bar

    def vjp_params(self, velocity_bar: Array, cache: VelocityCache) -> MLPParams:
        """params_bar = (∂v/∂θ)ᵀ velocity_bar, summed over the batch."""
        return mlp_vjp_params(velocity_bar, cache.layers, self.kernels, input_bar=False)[1]
