"""Actions in a network's units and in the robot's: an affine map for each coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError
from qgf_ref.nets.critic import Critic


@dataclass(frozen=True)
class Normalisation:
    """raw = offset + scale·normalised, coordinate by coordinate.

    offset, scale  (D,), or () for all alike
    Raises InputError unless they are finite, of such shapes, and every scale is positive.
    """

    offset: Array
    scale: Array

    def __post_init__(self) -> None:
        for name in ("offset", "scale"):
            values = np.asarray(getattr(self, name), np.float64)
            require_finite(values, f"the normalisation's {name}", InputError)
            object.__setattr__(self, name, values)
        shapes = self.offset.shape, self.scale.shape
        if max(map(len, shapes)) > 1 or len({s for s in shapes if s}) > 1:
            raise InputError(
                f"a normalisation's offset and scale must have shape (D,) or (), got {shapes[0]} "
                f"and {shapes[1]}"
            )
        if not (self.scale > 0).all():
            raise InputError(f"every scale of a normalisation must be > 0, got {self.scale}")

    @classmethod
    def mean_std(cls, mean: ArrayLike, std: ArrayLike, eps: float = 0.0) -> Normalisation:
        """normalised = (raw − mean)/(std + eps). openpi has eps = 1e-6."""
        return cls(np.asarray(mean, float), np.asarray(std, float) + eps)

    @classmethod
    def quantiles(cls, low: ArrayLike, high: ArrayLike, eps: float = 0.0) -> Normalisation:
        """normalised = 2(raw − low)/(high − low + eps) − 1: from quantiles, or minimum and maximum.

        openpi has the quantiles 0.01 and 0.99, and eps = 1e-6.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        half = (high - low + eps) / 2
        return cls(low + half, half)

    def raw(self, x: Array) -> Array:
        """The robot's units. x (…, D)."""
        return self.offset + self.scale * np.asarray(x)

    def normalised(self, x: Array) -> Array:
        """The network's units. x (…, D)."""
        return (np.asarray(x) - self.offset) / self.scale

    @property
    def inverse(self) -> Normalisation:
        """The map the other way: its `normalised` is this one's `raw`."""
        return Normalisation(-self.offset / self.scale, 1 / self.scale)

    def critic(self, base: Critic) -> Critic:
        """Q(s, raw(a)) of a critic of raw actions, as a critic of normalised ones."""
        return CriticOfRaw(base, self)


@dataclass(frozen=True)
class CriticOfRaw:
    """Q(s, offset + scale·a): the chain rule of `Normalisation`."""

    base: Critic
    units: Normalisation

    @property
    def aggregation(self) -> str:
        """That of the critic underneath."""
        return self.base.aggregation

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q (E, B) at the raw action."""
        return self.base.forward(obs, self.units.raw(action).astype(action.dtype, copy=False))

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q/∂raw)(scale·action_dot), (E, B)."""
        return self.base.jvp(self._scaled(action_dot), cache)

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """scale·(∂Q/∂raw)ᵀ q_bar, (B, D)."""
        return self._scaled(self.base.vjp(q_bar, cache))

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """scale·∂²Q/∂raw²·(scale·action_dot), (B, D)."""
        return self._scaled(self.base.hvp(self._scaled(action_dot), q_bar, cache))

    def _scaled(self, x: Array) -> Array:
        return (self.units.scale * x).astype(x.dtype, copy=False)
