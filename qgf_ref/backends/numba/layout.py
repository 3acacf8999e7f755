"""Where the interpreter finds everything: offsets into one flat workspace for a block of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import CRITIC, Kind, Op
from qgf_ref.backends.program.registers import Code

PLACES = 18
(
    OBS_DIM, WIDE, PRE_WIDE, PRE_KERNEL, PRE_BIAS, X, Z, SCRATCH, PRE, TANGENTS, DRAWS, BATCH,
    FIRST, ROWS, MEMBER, TEAM, PRECISE, CARRIED,
) = range(PLACES)  # fmt: skip
"""The numbers that `interpreter.run_block` is given of networks, workspace and block.

OBS_DIM, WIDE  columns of an observation; row stride of a hidden layer's value
PRE_WIDE, PRE_KERNEL, PRE_BIAS  the observations' share of all first layers: columns, and where
               in the weights its kernel and bias are
X, Z, SCRATCH, PRE, TANGENTS  where in the workspace: two buffers of hidden values, four rows (five
               of residual blocks), the observations' share, a member's tangents
CARRIED        where in the workspace: what the residual sums carry past a block on the way back
DRAWS, BATCH   rows of an observation; of the batch
FIRST, ROWS    of the block
MEMBER, TEAM   number of this thread, and of the threads that share the block
PRECISE        1: rows' times are embedded in double precision, 0: as the official code does
"""


@dataclass(frozen=True)
class Sizes:
    """Widths that a workspace depends on, in elements.

    action  D                                       members  E of each network
    hidden  for each network and layer, the width; of an ensemble, of one member
    saved   for each network, what a forward keeps of a row for the products, of one member
    wide    row stride of a hidden layer's value    pre      width of all first layers together
    residual  whether a network has residual blocks
    """

    action: int
    members: tuple[int, ...]
    hidden: tuple[tuple[int, ...], ...]
    saved: tuple[int, ...]
    wide: int
    pre: int
    residual: bool = False

    def width(self, kind: int) -> int:
        """Numbers for each row of a value of that kind."""
        if kind >= len(Kind):
            network = kind - len(Kind)
            return self.members[network] * self.saved[network]
        if kind == Kind.MEMBERS:
            return self.members[CRITIC]
        return self.action if kind == Kind.ACTION else 1


@dataclass(frozen=True)
class Layout:
    """Offsets into one workspace for blocks of up to `rows` rows.

    registers (R,); x, z, scratch, pre, tangents, carried: see `PLACES`; size: of the workspace.
    height: rows of x and z for each row of the block.
    """

    registers: Array
    x: int
    z: int
    scratch: int
    pre: int
    tangents: int
    carried: int
    size: int
    height: int


def height(code: Code) -> int:
    """Rows of hidden values for each row of a block: a Hessian product carries two at once."""
    return 2 if code.asks(Op.HVP) else 1


def lay_out(code: Code, sizes: Sizes, rows: int, elements_in_line: int) -> Layout:
    """Place everything, each on a cache line of its own."""
    top = 0

    def reserve(elements: int) -> int:
        nonlocal top
        at = top
        top += -(-elements // elements_in_line) * elements_in_line
        return at

    registers = np.array([reserve(rows * sizes.width(k)) for k in code.registers], np.int64)
    high = height(code)
    x, z = (reserve(high * rows * sizes.wide) for _ in range(2))
    scratch, pre = reserve((5 if sizes.residual else 4) * sizes.wide), reserve(rows * sizes.pre)
    tangents = reserve(rows * max(map(sum, sizes.hidden)) if high > 1 else 0)
    carried = reserve(high * rows * sizes.wide if sizes.residual else 0)
    return Layout(registers, x, z, scratch, pre, tangents, carried, top, high)
