"""Where a parameter set's arrays lie, found out once: compiled code is given addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.numba.kernels.memory import address
from qgf_ref.nets.mlp import MLPParams

DTYPES = tuple(np.dtype(name) for name in REAL_DTYPES)
"""What compiled code takes."""
_NAME = "numba"


@dataclass
class Leaves:
    """Of a parameter set whose arrays are contiguous and of one dtype: see `leaves_of`.

    shapes, sizes, addresses  of the arrays in their order, the latter two (n,) integers
    layers                    shapes by layer, once somebody asked
    """

    dtype: np.dtype[Any]
    shapes: tuple[tuple[int, ...], ...]
    sizes: Array
    addresses: Array
    layers: tuple[Any, ...] | None = None


def leaves_of(params: MLPParams) -> Leaves | None:
    """Of these parameters, which keep it as long as they last; None if the arrays are of several
    dtypes, or of none of `DTYPES`, or one is not contiguous.
    """
    memo = params.memo
    if _NAME not in memo:
        memo[_NAME] = _leaves_of(params)
    found: Leaves | None = memo[_NAME]
    return found


def remembered(params: MLPParams, leaves: Leaves) -> MLPParams:
    """The parameters, of whose arrays this is known."""
    params.memo[_NAME] = leaves
    return params


def _leaves_of(params: MLPParams) -> Leaves | None:
    arrays = params.arrays()
    dtype = arrays[0].dtype
    if dtype not in DTYPES or any(a.dtype != dtype or not a.flags.c_contiguous for a in arrays):
        return None
    sizes = np.array([a.size for a in arrays], np.int64)
    where = np.array([address(a) for a in arrays], np.int64)
    return Leaves(dtype, tuple([a.shape for a in arrays]), sizes, where)
