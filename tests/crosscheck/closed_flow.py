"""A flow of which the cross-check sees no more than the contract, in a convention of its own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qgf_ref.flow.convention import convention
from qgf_ref.guidance.base import GuidedFlow
from tests.conftest import small_checkpoint

T, D, ROWS, WEIGHT = 4, 3, 8, 1.5
RNG = np.random.default_rng(0)
OBS = RNG.standard_normal((ROWS, 5)).astype(np.float32)
NOISE = RNG.standard_normal((ROWS, D)).astype(np.float32)


class Closed:
    """A network of which nothing but the contract can be seen, asked in openpi's convention or in
    the core's.
    """

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        if name not in ("forward", "jvp", "vjp", "hvp", "action_dim", "obs_dim", "dtype",
                        "aggregation"):  # fmt: skip
            raise AttributeError(name)
        return getattr(self._base, name)


@cache
def flow(dtype: str = "float64", name: str = "openpi", steps: int = T) -> GuidedFlow:
    """A port's field u, from the core's v, told to be in a convention; its critic."""
    own, told = small_checkpoint(steps=steps, dtype=dtype).flow, convention(name)
    port = Closed(told.from_core(own.field))
    return replace(own, field=told.to_core(port, steps), critic=Closed(own.critic))
