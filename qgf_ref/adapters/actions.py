"""How a flat action (B, D) lies in what a network takes: chunks (B, H, A), padded dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.normalisation import Normalisation


@dataclass(frozen=True)
class Placement:
    """Columns of one flat array that are all of another, shaped: (B, wide) ↔ (B, *shape).

    columns (K,) into the wide array, K = prod(shape)
    """

    wide: int
    columns: Array
    shape: tuple[int, ...]

    def gathered(self, x: Array) -> Array:
        """(B, *shape) of x (B, wide)."""
        return x[:, self.columns].reshape(len(x), *self.shape)

    def scattered(self, y: Array, elsewhere: float = 0.0) -> Array:
        """(B, wide) with y (B, *shape) in its columns, and a number elsewhere."""
        x = np.full((len(y), self.wide), elsewhere, y.dtype)
        x[:, self.columns] = y.reshape(len(y), -1)
        return x


@dataclass(frozen=True)
class ActionLayout:
    """shape (H, A) or (D,) of one row of the network's x, its padding, and what the flow carries.

    real  mask of `shape`; held: see `qgf_ref.adapters.AdapterSettings`
    """

    shape: tuple[int, ...]
    real: Array
    held: float | None

    @classmethod
    def of(
        cls, action_shape: int | Sequence[int], real: ArrayLike | None, held: float | None
    ) -> ActionLayout:
        """Raises InputError on a shape that is none, on a mask of another shape or that leaves no
        block (rows times columns), and on a held number without padding.
        """
        sizes = np.atleast_1d(np.asarray(action_shape))
        if sizes.dtype.kind not in "iu" or sizes.shape not in ((1,), (2,)) or (sizes < 1).any():
            said = " ".join(repr(action_shape).split())
            raise InputError(f"action_shape must be D or (H, A), got {said}")
        shape = tuple(map(int, sizes))
        mask = np.ones(shape, bool) if real is None else np.asarray(real)
        if mask.dtype != bool or mask.shape not in (shape, shape[-1:]):
            raise InputError(
                f"real must be a mask of bools of shape {' or '.join(_shapes(shape))}, got "
                f"{mask.dtype} of shape {mask.shape}"
            )
        mask = np.broadcast_to(mask, shape).copy()
        number = isinstance(held, int | float | np.number) and np.isfinite(held)
        if held is not None and (real is None or not number):
            raise InputError("held is the number that padding is held at: give real=… with it")
        block = np.ix_(*(mask.any(axis=tuple(i for i in range(len(shape)) if i != axis))
                         for axis in range(len(shape))))  # fmt: skip
        if not mask.any() or not mask[block].all():
            raise InputError(
                "real must be a block, some steps of the chunk times some dimensions, and not empty"
            )
        return cls(shape, mask, held)

    @property
    def action_dim(self) -> int:
        """D of the flow."""
        return int(self.real.sum()) if self.held is not None else prod(self.shape)

    def units(self, given: Normalisation) -> Normalisation:
        """For the flat (D,) those of (D,), (), or one step's dimensions (A,), for every step alike.

        Raises InputError on another shape.
        """
        return Normalisation(*(self._each(x, "critic_units") for x in (given.offset, given.scale)))

    def bound(self, given: Any) -> Any:
        """An action bound whose pair of ends is flat as well; all else as it is."""
        if not (isinstance(given, tuple | list) and len(given) == 2):
            return given
        try:
            ends = [np.asarray(end, np.float64) for end in given]
        except (TypeError, ValueError):
            return given  # refused by the flow
        return tuple(self._each(end, "the ends of action_bound") for end in ends)

    def _each(self, values: Array, name: str) -> Array:
        if values.shape in ((), (self.action_dim,)):
            return values
        if values.shape != self.shape[-1:]:
            known = sorted({f"({self.action_dim},)", f"({self.shape[-1]},)"})
            raise InputError(f"{name} must have shape {' or '.join(known)}, got {values.shape}")
        return self.flat(np.broadcast_to(values, (1, *self.shape)))[0]

    def full(self, x: Array, padding: float | None = None) -> Array:
        """(B, *shape) of a flat (B, D); `padding`, or the held number, where nothing is carried."""
        if self.held is None:
            return x.reshape(len(x), *self.shape)
        place = Placement(prod(self.shape), np.flatnonzero(self.real), (self.action_dim,))
        elsewhere = self.held if padding is None else padding
        return place.scattered(x, elsewhere).reshape(len(x), *self.shape)

    def flat(self, y: Array) -> Array:
        """(B, D) of (B, *shape)."""
        y = y.reshape(len(y), -1)
        return y if self.held is None else y[:, np.flatnonzero(self.real)]

    def block(self) -> Placement:
        """The real block in the flat (B, D): what the critic is asked on."""
        rest = tuple(i for i in range(len(self.shape)))
        sizes = tuple(
            int(self.real.any(axis=tuple(i for i in rest if i != axis)).sum()) for axis in rest
        )
        if self.held is not None:
            return Placement(self.action_dim, np.arange(self.action_dim), sizes)
        return Placement(self.action_dim, np.flatnonzero(self.real), sizes)

    def __str__(self) -> str:
        padded = self.real.size - int(self.real.sum())
        what = f"D = {self.action_dim} as {'×'.join(map(str, self.shape))}"
        if not padded:
            return what
        kept = "carried along" if self.held is None else f"held at {self.held:g}"
        return f"{what}, {padded} of {self.real.size} padding, {kept}, unseen by the critic"


def _shapes(shape: tuple[int, ...]) -> list[str]:
    return [str(s) for s in dict.fromkeys((shape, shape[-1:]))]
