"""A chain as a program: instructions on values, each for all rows of the batch.

`qgf_ref.backends.program.executor` says in NumPy what each instruction does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Op(IntEnum):
    """What an interpreter can do. Inputs → outputs. x, y: of one kind; s: SCALAR.

    The results of those up to `LAST_CHECKED` must be finite.
    """

    FORWARD = 0
    """a, or a and the time s → the network's y, and what its products need. numbers: the time."""
    VJP = 1
    """y_bar, saved → a_bar."""
    JVP = 2
    """a_dot, saved → y_dot, of a network whose y is an ACTION."""
    HVP = 3
    """a_dot, y_bar, saved → the derivative of `VJP` along a_dot, of a network of numbers."""
    AXPY = 4
    """x, y → y + number·x."""
    AXPY_ROW = 5
    """x, y, s → y + s·x."""
    SCALE = 6
    """x → number·x."""
    SCALE_ROW = 7
    """x, s → s·x."""
    DIVIDE = 8
    """x, s, y → x/s, and y where s is 0."""
    ROW_DOT = 9
    """x, y (ACTION) → ⟨x, y⟩ (SCALAR)."""
    RATIO = 10
    """s, s′ → s/s′, and 0 where either is not positive."""
    CLIP = 11
    """x → x within ±number, and the clip's slope."""
    MULTIPLY = 12
    """x, y → x·y."""
    REDUCE_MIN = 13
    """members → their minimum (SCALAR) and every member's share in it (MEMBERS)."""
    REDUCE_MEAN = 14
    """members → mean and shares."""
    FILL = 15
    """→ number everywhere."""
    SHARE = 16
    """s, shares (MEMBERS) → s·shares."""
    WHERE_POSITIVE = 17
    """x, y → x where y > 0, else 0."""
    PLUS = 18
    """x → x + number."""
    AT_LEAST = 19
    """x → max(x, number)."""
    NEAREST = 20
    """s → of the numbers' second half that whose partner in the first is nearest by ratio."""
    ROOT = 21
    """x → √x."""
    KEEP = 22
    """x (ACTION) → x in the columns that the numbers name, 0 in the others."""
    SIGMOID = 23
    """x → σ(x)."""
    DRAW = 24
    """→ the rows of one of the arrays drawn beside the noise (ACTION). number: which."""


LAST_CHECKED = Op.RATIO
FIELD, CRITIC = 0, 1
"""The first two networks of a program; auxiliary ones follow, in the order of `networks_of`."""


class Kind(IntEnum):
    """What a value of the program is for each row of the batch; `saved` gives the further ones."""

    ACTION = 0
    """D numbers."""
    MEMBERS = 1
    """E numbers."""
    SCALAR = 2
    """One number."""


def saved(network: int) -> int:
    """The kind of what a forward of that network saved for its products."""
    return len(Kind) + network


NOISE, WEIGHT = 0, 1
"""The values that are there from the start: ACTION and SCALAR."""


class Instruction(NamedTuple):
    """One step: inputs and outputs are values."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    network: int = FIELD
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Program:
    """A recorded chain. kinds[i] is the kind of value i; results: values, in the chain's order."""

    instructions: tuple[Instruction, ...]
    kinds: tuple[int, ...]
    results: tuple[int, ...]
