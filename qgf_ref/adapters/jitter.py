"""What rounding does to a flow of anybody's networks: the flow itself, every number a little off.

Nothing is known of the inside of such networks, which could be summed in another order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow

UNIT_OF_FLOAT32 = 2.0**-24
RESULTS, PRODUCTS = 4.0, 64.0
"""Units by which a network's results, and its products, are moved, of their root mean square: a
float32 LayerNorm network's are off by 1 to 4 and 10 to 60 (our own, in other summation orders)."""


class Jittered:
    """A network of which every number is a little off, as float32 would have it, each row its own.

    Actions by a unit of rounding, results by `RESULTS` units of their size, products by `PRODUCTS`.
    """

    def __init__(self, base: Any, seed: int) -> None:
        self.base, self.rng = base, np.random.default_rng((seed, 0x6A6974))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def _off(self, y: Array, units: float) -> Array:
        size = np.sqrt((y.astype(float) ** 2).mean()) if y.size else 0.0
        noise = units * UNIT_OF_FLOAT32 * size * self.rng.standard_normal(y.shape)
        return (y + noise).astype(y.dtype)

    def forward(self, obs: Array, action: Array, *time: Any) -> tuple[Array, Any]:
        """The base's, off."""
        moved = action * (1 + UNIT_OF_FLOAT32 * self.rng.standard_normal(action.shape))
        y, cache = self.base.forward(obs, moved.astype(action.dtype), *time)
        return self._off(y, RESULTS), cache

    def jvp(self, x_dot: Array, cache: Any) -> Array:
        """The base's, off."""
        return self._off(self.base.jvp(x_dot, cache), PRODUCTS)

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """The base's, off."""
        return self._off(self.base.vjp(y_bar, cache), PRODUCTS)

    def hvp(self, x_dot: Array, y_bar: Array, cache: Any) -> Array:
        """The base's, off."""
        return self._off(self.base.hvp(x_dot, y_bar, cache), PRODUCTS)


def jittered_flow(flow: GuidedFlow, seed: int) -> GuidedFlow:
    """The flow with both its networks a little off."""
    return replace(flow, field=Jittered(flow.field, seed), critic=Jittered(flow.critic, seed + 1))
