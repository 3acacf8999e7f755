"""A sampler as a program: instructions on values, each for all rows of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Op(IntEnum):
    """What the interpreter can do. Inputs → outputs; D-wide values unless stated."""

    FORWARD = 0
    """x → y and what its vjp needs. The field's y is v (D), the critic's the members (E)."""
    VJP = 1
    """y_bar, saved → x_bar."""
    AXPY = 2
    """x, y → y + number·x."""
    AXPY_WEIGHT = 3
    """x, y → y + w·x, w the row's guidance weight."""
    SCALE = 4
    """x → number·x."""
    CLIP = 5
    """x → x within ±number, and the clip's slope."""
    MULTIPLY = 6
    """x, y → x·y, both D wide."""
    REDUCE_MIN = 7
    """members (E) → minimum (1) and every member's share in it (E)."""
    REDUCE_MEAN = 8
    """members (E) → mean (1) and shares (E)."""
    FILL = 9
    """→ number everywhere."""
    SHARE = 10
    """y_bar (1), shares (E) → q_bar (E)."""


FIELD, CRITIC = 0, 1
"""The networks of a program."""


class Kind(IntEnum):
    """What a value of the program is for each row of the batch."""

    ACTION = 0
    """D numbers."""
    MEMBERS = 1
    """E numbers."""
    SCALAR = 2
    """One number."""
    SAVED_FIELD = 3
    """What a forward of the field saved for its vjp."""
    SAVED_CRITIC = 4


class Instruction(NamedTuple):
    """One step. inputs and outputs are values; time is an index into `Program.times`, or −1."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    network: int = FIELD
    time: int = -1
    number: float = 0.0


@dataclass(frozen=True)
class Program:
    """A recorded sampler. kinds[i] is the kind of value i; value 0 is the noise.

    times    the flow times at which the field is asked
    results  the values that the chain returned, in its order
    """

    instructions: tuple[Instruction, ...]
    kinds: tuple[Kind, ...]
    times: tuple[float, ...]
    results: tuple[int, ...]
