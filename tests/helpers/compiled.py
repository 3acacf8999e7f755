"""Networks on the compiled kernels, in one call and block by block."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.fused import numba_kernels
from qgf_ref.nets.mlp import (
    LayerParams,
    MLPParams,
)
from qgf_ref.ops.kernels import Kernels

FLOAT = np.dtype(np.float32)


class ByBlock:
    """The compiled kernels, a call for each block: without what takes a whole network."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("network") or name in ("adam_steps", "moving_averages"):
            raise AttributeError(name)
        return getattr(numba_kernels, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return numba_kernels(*args, **kwargs)


BY_BLOCK: Kernels = ByBlock()


def network_of(
    widths: tuple[int, ...],
    members: int | None = None,
    normed: bool = True,
    dtype: np.dtype[Any] = FLOAT,
    seed: int = 0,
) -> MLPParams:
    """Random parameters; the output layer has no LayerNorm."""
    rng = np.random.default_rng(seed)
    lead = () if members is None else (members,)

    def draw(*shape: int) -> Array:
        return rng.standard_normal((*lead, *shape)).astype(dtype)

    layers = []
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        norm = [draw(columns), draw(columns)] if normed and i < len(widths) - 2 else []
        layers.append(
            LayerParams(draw(rows, columns) / np.sqrt(rows).astype(dtype), draw(columns), *norm)
        )
    return MLPParams(tuple(layers))


def same_bits(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one, other, strict=True)
