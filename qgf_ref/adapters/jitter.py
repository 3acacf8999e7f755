"""What rounding does to a flow of anybody's networks: the flow itself, every number a little off.

Nothing is known of the inside of such networks, which could be summed in another order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow

UNIT_OF_FLOAT32 = 2.0**-24
RESULTS, PRODUCTS = 4.0, 64.0
"""Units by which a network's results, and its products, are moved, of their root mean square: a
float32 LayerNorm network's are off by 1 to 4 and 10 to 60 (our own, in other summation orders)."""


class TypicalSize(NamedTuple):
    """Root mean squares over a batch: of a network's result, and of its vjp for a cotangent of 1.

    A sum that nearly cancels rounds as its terms do: one row alone does not tell how.
    """

    result: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, network: Any, obs: Array, action: Array, *time: Any) -> TypicalSize:
        """From one forward and one vjp; nothing of a critic that there is not."""
        try:
            y, cache = network.forward(obs, action, *time)
            y_bar = np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)
            return cls(_size(y), _size(network.vjp(y_bar, cache)))
        except InputError:
            return cls()


UNKNOWN = TypicalSize()


def _size(y: Array) -> float:
    return float(np.sqrt((y.astype(float) ** 2).mean())) if y.size else 0.0


class Jittered:
    """A network of which every number is a little off, as float32 would have it, each row its own.

    Actions by a unit of rounding, results by `RESULTS` units of their size, products by `PRODUCTS`;
    the size is that of the call, or the typical one where that is larger.
    """

    def __init__(self, base: Any, seed: int, typical: TypicalSize = UNKNOWN) -> None:
        self.base, self.rng = base, np.random.default_rng((seed, 0x6A6974))
        self.typical = typical

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def _off(self, y: Array, units: float, least: float) -> Array:
        size = max(_size(y), least)
        noise = units * UNIT_OF_FLOAT32 * size * self.rng.standard_normal(y.shape)
        return (y + noise).astype(y.dtype)

    def _product(self, x: Array, factor: Array) -> Array:
        return self._off(x, PRODUCTS, self.typical.product * _size(factor))

    def forward(self, obs: Array, action: Array, *time: Any) -> tuple[Array, Any]:
        """The base's, off."""
        moved = action * (1 + UNIT_OF_FLOAT32 * self.rng.standard_normal(action.shape))
        y, cache = self.base.forward(obs, moved.astype(action.dtype), *time)
        return self._off(y, RESULTS, self.typical.result), cache

    def jvp(self, x_dot: Array, cache: Any) -> Array:
        """The base's, off."""
        return self._product(self.base.jvp(x_dot, cache), x_dot)

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """The base's, off."""
        return self._product(self.base.vjp(y_bar, cache), y_bar)

    def hvp(self, x_dot: Array, y_bar: Array, cache: Any) -> Array:
        """The base's, off, by its own size."""
        return self._off(self.base.hvp(x_dot, y_bar, cache), PRODUCTS, 0.0)


def jittered_flow(
    flow: GuidedFlow,
    seed: int,
    field: TypicalSize = UNKNOWN,
    critic: TypicalSize = UNKNOWN,
) -> GuidedFlow:
    """The flow with both its networks a little off; field, critic: their typical sizes."""
    return replace(
        flow,
        field=Jittered(flow.field, seed, field),
        critic=Jittered(flow.critic, seed + 1, critic),
    )
