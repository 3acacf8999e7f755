"""Critics in closed form: one member, no network. They guide the closed-form flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


class AnalyticCache(NamedTuple):
    """What `AnalyticCritic.forward` saves: the action (B, D), and ∇Q there."""

    action: Array
    gradient: Array


class AnalyticCritic:
    """A critic given by its value and its derivatives, adapted to the `Critic` protocol (E = 1)."""

    aggregation = "min"
    kinks: tuple[float, ...] = ()
    """In one dimension: where ∇Q jumps, so that quadrature can split there."""

    def value(self, action: Array) -> Array:
        """Q (B,). action (B, D)."""
        raise NotImplementedError

    def gradient(self, action: Array) -> Array:
        """∇Q (B, D)."""
        raise NotImplementedError

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        """∇²Q·action_dot (B, D)."""
        raise NotImplementedError

    def forward(self, obs: Array, action: Array) -> tuple[Array, AnalyticCache]:
        """Q (1, B); the observation is not used."""
        return self.value(action)[None], AnalyticCache(action, self.gradient(action))

    def jvp(self, action_dot: Array, cache: AnalyticCache) -> Array:
        """(1, B)."""
        return (cache.gradient * action_dot).sum(axis=-1)[None]

    def vjp(self, q_bar: Array, cache: AnalyticCache) -> Array:
        """(B, D)."""
        return q_bar[0][:, None] * cache.gradient

    def hvp(self, action_dot: Array, q_bar: Array, cache: AnalyticCache) -> Array:
        """(B, D)."""
        return q_bar[0][:, None] * self.hessian_product(cache.action, action_dot)


@dataclass(frozen=True)
class QuadraticCritic(AnalyticCritic):
    """Q(a) = −½(a − a*)ᵀM(a − a*). optimum a* (D,); curvature M (D, D), symmetric.

    Raises InputError on shapes that do not fit or an M that is not symmetric.
    """

    optimum: Array
    curvature: Array

    def __post_init__(self) -> None:
        if np.ndim(self.optimum) != 1:
            raise InputError(f"optimum must have shape (D,), got {np.shape(self.optimum)}")
        D = np.shape(self.optimum)[0]
        if np.shape(self.curvature) != (D, D) or not np.allclose(
            self.curvature, np.transpose(self.curvature)
        ):
            raise InputError(f"curvature must be a symmetric ({D}, {D}) matrix")

    def value(self, action: Array) -> Array:
        """Q (B,). Raises InputError on actions of another width."""
        if action.shape[-1] != len(self.optimum):
            raise InputError(
                f"the critic is of {len(self.optimum)}-dimensional actions, got {action.shape}"
            )
        offset = action - self.optimum
        return -0.5 * ((offset @ self.curvature) * offset).sum(axis=-1)

    def gradient(self, action: Array) -> Array:
        """−M(a − a*), (B, D)."""
        return -(action - self.optimum) @ self.curvature

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        """−M·action_dot, (B, D)."""
        return -action_dot @ self.curvature


@dataclass(frozen=True)
class DistanceCritic(AnalyticCritic):
    """Q(a) = −|a − a*| in one dimension (the paper's Figure 2). At a = a* the gradient is 0."""

    optimum: float

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """The optimum itself."""
        return (self.optimum,)

    def value(self, action: Array) -> Array:
        """Q (B,)."""
        return -np.abs(action[..., 0] - self.optimum)

    def gradient(self, action: Array) -> Array:
        """−sign(a − a*), (B, 1)."""
        return -np.sign(action - self.optimum)

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        """0, (B, 1): the kink's delta at a* is not a function."""
        return np.zeros_like(action_dot)


@dataclass(frozen=True)
class BumpCritic(AnalyticCritic):
    """Another critic plus a spurious bump h·exp(−‖a − c‖²/2s²): a critic with an error."""

    base: AnalyticCritic
    centre: Array
    height: float
    width: float

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """Those of the critic underneath."""
        return self.base.kinks

    def _bump(self, action: Array) -> Array:
        squared = ((action - self.centre) ** 2).sum(axis=-1)
        return self.height * np.exp(-0.5 * squared / self.width**2)

    def value(self, action: Array) -> Array:
        """Q (B,)."""
        return self.base.value(action) + self._bump(action)

    def gradient(self, action: Array) -> Array:
        """∇Q (B, D)."""
        pull = self._bump(action)[..., None] * (action - self.centre) / self.width**2
        return self.base.gradient(action) - pull

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        """∇²Q_base·ȧ + (b/s²)(o·⟨o, ȧ⟩/s² − ȧ), (B, D), with b the bump at a, o = a − c."""
        offset = action - self.centre
        along = (offset * action_dot).sum(axis=-1, keepdims=True) / self.width**2
        bump = self._bump(action)[..., None] / self.width**2
        return self.base.hessian_product(action, action_dot) + bump * (offset * along - action_dot)
