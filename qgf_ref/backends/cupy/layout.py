"""How networks lie in device memory: tables, strides, places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LAYER = (
    "IN", "OUT", "KERNEL", "TRANSPOSE", "BIAS", "SCALE", "OFFSET", "NORM", "PRE", "TIMED",
    "RESIDUAL",
)  # fmt: skip
"""Columns of the layer table; offsets are in numbers from the beginning of the weights.

IN, OUT            widths (IN of a first layer: D)
KERNEL, TRANSPOSE  the matrix, rows of IN, and its transpose, rows of OUT; rows are padded
NORM               of `qgf_ref.ops.dense.ORDERS`
PRE                first layers: column of this layer in the observations' share
TIMED              first layers: the rows of the kernel for the embedded time; −1 without
RESIDUAL           1 if the layer's input is added to its output
"""
NETWORK = "FIRST_LAYER", "DEPTH", "MEMBERS", "FAST", "SCALAR", "ACTIVATION"
"""Columns of the network table: first row in the layer table (member e's layer l is e·DEPTH + l
rows further), layers, members, 1 if the variance is the fast one, 1 if the output is one number,
the activation's number in `qgf_ref.ops.activations.ACTIVATIONS`."""
LINE = 256
"""Bytes on whose multiples arrays begin."""


def pack(dtype: np.dtype[Any]) -> int:
    """Numbers of 16 bytes, which a thread reads at once."""
    return 16 // dtype.itemsize


def padded(columns: int, dtype: np.dtype[Any]) -> int:
    """The stride of a row: a multiple of 16 bytes."""
    return -(-columns // pack(dtype)) * pack(dtype)


@dataclass(frozen=True)
class Net:
    """A network of a program. widths: of its hidden layers; eps of its LayerNorm; activation: its
    number.
    """

    number: int
    members: int
    widths: tuple[int, ...]
    outputs: int
    scalar: bool
    fast: bool
    activation: int
    eps: float
    rows: tuple[tuple[int, ...], ...]
    """Of the layer table: member 0's layers."""

    def layer(self, l: int) -> dict[str, int]:
        """Of member 0's layer l, by the names of the columns."""
        return dict(zip(LAYER, self.rows[l], strict=True))


class Space:
    """Places in one array that does not exist yet, each on a line of its own. Sizes in numbers."""

    def __init__(self, itemsize: int) -> None:
        self.line = LINE // itemsize
        self.size = 0

    def take(self, numbers: int) -> int:
        """Where that many numbers will be."""
        at = self.size
        self.size += -(-numbers // self.line) * self.line
        return at
