"""The critic of noisy actions Q_rob(s, a_t, t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
from qgf_ref.ops.structure import (
    concat,
    concat_jvp,
    concat_vjp,
    squeeze_last,
    squeeze_last_vjp,
    zeros,
)
from qgf_ref.ops.time_embedding import Precision, embedded_time


class NoisyActionCritic(Protocol):
    """What an estimator needs of Q_rob: a forward and its products in the action."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """Q_rob (B,), and what the products need. obs (B, O), action (B, D), time ()."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q_rob/∂a) action_dot, (B,)."""
        ...

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂Q_rob/∂a)ᵀ q_bar, (B, D). q_bar (B,)."""
        ...


class RobustCriticCache(NamedTuple):
    """What `RobustCritic.forward` saves."""

    widths: tuple[int, ...]
    layers: MLPCache


@dataclass(frozen=True)
class RobustCritic:
    """Q_rob(s, a, t) = MLP([s, a, emb(t)]), one member, shaped as a value network.

    Source: official.md, section 1 (RobustQ critic).
    """

    params: MLPParams
    options: MLPOptions = MLPOptions()
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels

    def forward(
        self, obs: Array, action: Array, time: float | Array
    ) -> tuple[Array, RobustCriticCache]:
        """Q_rob (B,). obs (B, O), action (B, D), time () or (B,) in [0, 1]."""
        kernel = self.params.layers[0].kernel
        embedding, _ = embedded_time(self.kernels, time, action, self.embedding, kernel)
        x, widths = self.kernels(concat, obs, action, embedding)
        y, layers = mlp(self.params, x, self.options, self.kernels)
        return self.kernels(squeeze_last, y), RobustCriticCache(widths, layers)

    def jvp(self, action_dot: Array, cache: RobustCriticCache) -> Array:
        """q_dot (B,) = (∂Q_rob/∂a) action_dot."""
        obs_dot, embedding_dot = (self.kernels(zeros, action_dot, cache.widths[i]) for i in (0, 2))
        x_dot = self.kernels(concat_jvp, (obs_dot, action_dot, embedding_dot))
        return self.kernels(squeeze_last, mlp_jvp(x_dot, cache.layers, self.kernels))

    def vjp(self, q_bar: Array, cache: RobustCriticCache) -> Array:
        """a_bar (B, D) = (∂Q_rob/∂a)ᵀ q_bar."""
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        x_bar = mlp_vjp(y_bar, cache.layers, self.kernels)
        return self.kernels(concat_vjp, x_bar, cache.widths, 1)

    def vjp_params(self, q_bar: Array, cache: RobustCriticCache) -> MLPParams:
        """params_bar = (∂Q_rob/∂φ)ᵀ q_bar, summed over the batch."""
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        return mlp_vjp_params(y_bar, cache.layers, self.kernels, input_bar=False)[1]
