"""Where a parameter set's arrays lie, found out once: compiled code is given addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.numba.kernels.memory import address
from qgf_ref.ops.dense import DenseParts

DTYPES = tuple(np.dtype(name) for name in REAL_DTYPES)
"""What compiled code takes."""
_NAME = "numba"


class Parameters(Protocol):
    """What is asked of a parameter set (`qgf_ref.nets.mlp.MLPParams`), which lies above.

    memo  a place in which to keep what holds of these very arrays
    """

    @property
    def layers(self) -> tuple[Any, ...]:
        """Each with `parts()`: kernel, bias, scale, offset, None where it has none."""
        ...

    @property
    def memo(self) -> dict[str, Any]:
        """By name."""
        ...

    def arrays(self) -> tuple[Array, ...]:
        """All, those of the layers last."""
        ...

    def replace(self, arrays: Any) -> Any:
        """The same structure around other arrays."""
        ...


@dataclass(frozen=True)
class Block:
    """A single block's `Parameters`."""

    given: DenseParts
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Block]:
        """Itself."""
        return (self,)

    def parts(self) -> DenseParts:
        """Kernel, bias, scale, offset."""
        return self.given

    def arrays(self) -> tuple[Array, ...]:
        """Those that it has."""
        return tuple(a for a in self.given if a is not None)

    def replace(self, arrays: Any) -> Block:
        """The same around other arrays."""
        values = iter(arrays)
        return Block(DenseParts(*[None if a is None else next(values) for a in self.given]))  # type: ignore[arg-type]


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


def leaves_of(params: Parameters) -> Leaves | None:
    """Of these parameters, which keep it as long as they last; None if the arrays are of several
    dtypes, or of none of `DTYPES`, or one is not contiguous.
    """
    memo = params.memo
    if _NAME not in memo:
        memo[_NAME] = _leaves_of(params)
    found: Leaves | None = memo[_NAME]
    return found


def memo_of(leaves: Leaves) -> dict[str, Any]:
    """What a parameter set remembers of arrays of which this is known."""
    return {_NAME: leaves}


def _leaves_of(params: Parameters) -> Leaves | None:
    arrays = params.arrays()
    dtype = arrays[0].dtype
    if dtype not in DTYPES or any(a.dtype != dtype or not a.flags.c_contiguous for a in arrays):
        return None
    sizes = np.array([a.size for a in arrays], np.int64)
    where = np.array([address(a) for a in arrays], np.int64)
    return Leaves(dtype, tuple([a.shape for a in arrays]), sizes, where)
