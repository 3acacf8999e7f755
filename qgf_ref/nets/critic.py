"""The critic ensemble Q(s, a)."""

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
    mlp_vjp_jvp,
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


class Critic(Protocol):
    """What a sampler and an estimator need of Q: members, their reduction, products in the action.

    `MLPCritic` is the learned one; `qgf_ref.flow.closed_form_critics` has exact ones.
    """

    @property
    def aggregation(self) -> str:
        """How members become one value: "min" or "mean"."""
        ...

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q of every member (E, B), and what the products need. obs (B, O), action (B, D)."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q/∂a) action_dot, (E, B)."""
        ...

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂Q/∂a)ᵀ q_bar, (B, D). q_bar (E, B)."""
        ...

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """(Σ_e q_bar_e ∂²Q_e/∂a²) action_dot, (B, D): the vjp's derivative with q_bar held."""
        ...


class CriticCache(NamedTuple):
    """What `MLPCritic.forward` saves."""

    widths: tuple[int, ...]
    layers: MLPCache


@dataclass(frozen=True)
class MLPCritic:
    """Q_e(s, a) = MLP_e([s, a]), e = 1…E. Source: official.md, section 1 (Value).

    The parameters carry the ensemble axis, also when E = 1.
    """

    params: MLPParams
    options: MLPOptions = MLPOptions()
    aggregation: str = "min"
    kernels: Kernels = reference_kernels

    def forward(self, obs: Array, action: Array) -> tuple[Array, CriticCache]:
        """Q (E, B). obs (B, O), action (B, D)."""
        x, widths = self.kernels(concat, obs, action)
        y, layers = mlp(self.params, x, self.options, self.kernels)
        return self.kernels(squeeze_last, y), CriticCache(widths, layers)

    def jvp(self, action_dot: Array, cache: CriticCache) -> Array:
        """q_dot (E, B) = (∂Q/∂a) action_dot."""
        obs_dot = self.kernels(zeros, action_dot, cache.widths[0])
        return self.jvp_inputs(obs_dot, action_dot, cache)

    def jvp_inputs(self, obs_dot: Array, action_dot: Array, cache: CriticCache) -> Array:
        """q_dot (E, B) along a direction in (s, a)."""
        x_dot = self.kernels(concat_jvp, (obs_dot, action_dot))
        return self.kernels(squeeze_last, mlp_jvp(x_dot, cache.layers, self.kernels))

    def vjp(self, q_bar: Array, cache: CriticCache) -> Array:
        """a_bar (B, D) = Σ_e (∂Q_e/∂a)ᵀ q_bar_e."""
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        x_bar = mlp_vjp(y_bar, cache.layers, self.kernels)
        return self.kernels(concat_vjp, x_bar, cache.widths, 1)

    def hvp(self, action_dot: Array, q_bar: Array, cache: CriticCache) -> Array:
        """a_bar_dot (B, D) = (Σ_e q_bar_e ∂²Q_e/∂a²) action_dot: the jvp of `vjp`, q_bar held.

        The Hessian of the aggregate as well, almost everywhere: the weights that the reduction
        gives the members are constant but where the attaining member changes.
        Cost: one sweep of jvps and one backward that carries a cotangent and its tangent, no
        forward. Source: method.md, section 6.
        """
        obs_dot = self.kernels(zeros, action_dot, cache.widths[0])
        x_bar_dot = self._hvp(obs_dot, action_dot, q_bar, cache)
        return self.kernels(concat_vjp, x_bar_dot, cache.widths, 1)

    def hvp_inputs(
        self, obs_dot: Array, action_dot: Array, q_bar: Array, cache: CriticCache
    ) -> tuple[Array, Array]:
        """(s_bar_dot, a_bar_dot): the jvp of `vjp_inputs` along a direction in (s, a)."""
        x_bar_dot = self._hvp(obs_dot, action_dot, q_bar, cache)
        s_bar_dot, a_bar_dot = (
            self.kernels(concat_vjp, x_bar_dot, cache.widths, part) for part in (0, 1)
        )
        return s_bar_dot, a_bar_dot

    def _hvp(self, obs_dot: Array, action_dot: Array, q_bar: Array, cache: CriticCache) -> Array:
        x_dot = self.kernels(concat_jvp, (obs_dot, action_dot))
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        return mlp_vjp_jvp(x_dot, y_bar, cache.layers, self.kernels)

    def vjp_inputs(self, q_bar: Array, cache: CriticCache) -> tuple[Array, Array]:
        """(s_bar, a_bar) = Σ_e (∂Q_e/∂(s,a))ᵀ q_bar_e."""
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        x_bar = mlp_vjp(y_bar, cache.layers, self.kernels)
        s_bar, a_bar = (self.kernels(concat_vjp, x_bar, cache.widths, part) for part in (0, 1))
        return s_bar, a_bar

    def vjp_params(self, q_bar: Array, cache: CriticCache) -> MLPParams:
        """params_bar = (∂Q/∂φ)ᵀ q_bar, summed over the batch."""
        y_bar = self.kernels(squeeze_last_vjp, q_bar)
        return mlp_vjp_params(y_bar, cache.layers, self.kernels, input_bar=False)[1]
