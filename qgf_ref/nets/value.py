"""The state value V(s)."""

from __future__ import annotations

from dataclasses import dataclass

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
from qgf_ref.ops.structure import squeeze_last, squeeze_last_vjp


@dataclass(frozen=True)
class MLPValue:
    """V(s) = MLP(s). Source: official.md, section 1 (Value without an ensemble)."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels

    def forward(self, obs: Array) -> tuple[Array, MLPCache]:
        """V (B,). obs (B, O)."""
        y, layers = mlp(self.params, obs, self.options, self.kernels)
        return self.kernels(squeeze_last, y), layers

    def jvp(self, obs_dot: Array, cache: MLPCache) -> Array:
        """v_dot (B,) = (∂V/∂s) obs_dot."""
        return self.kernels(squeeze_last, mlp_jvp(obs_dot, cache, self.kernels))

    def vjp(self, value_bar: Array, cache: MLPCache) -> Array:
        """s_bar (B, O) = (∂V/∂s)ᵀ value_bar."""
        return mlp_vjp(self.kernels(squeeze_last_vjp, value_bar), cache, self.kernels)

    def vjp_params(self, value_bar: Array, cache: MLPCache) -> MLPParams:
        """params_bar = (∂V/∂ψ)ᵀ value_bar, summed over the batch."""
        y_bar = self.kernels(squeeze_last_vjp, value_bar)
        return mlp_vjp_params(y_bar, cache, self.kernels, input_bar=False)[1]
