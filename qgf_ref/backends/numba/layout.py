"""From a program's values to places in memory: registers, reused as soon as a value is dead.

`assign` is done once for a program; `Layout` then places the registers of a block of rows in one
flat workspace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import FIELD, Kind, Program

COLUMNS = 7
OP, IN_0, IN_1, OUT_0, OUT_1, NETWORK, TIME = range(COLUMNS)
"""Columns of the interpreter's code: one row for each instruction; −1 where nothing is meant."""


@dataclass(frozen=True)
class Code:
    """What the interpreter reads. table (n, COLUMNS) int64, numbers (n,) float64.

    registers  the kind of each register
    results    the registers of the program's results, in order
    """

    table: Array
    numbers: Array
    registers: tuple[Kind, ...]
    results: tuple[int, ...]


def assign(program: Program) -> Code:
    """Give every value a register. What a forward saves gets one only if a vjp reads it."""
    last_use = {value: len(program.instructions) for value in program.results}
    for n, instruction in enumerate(program.instructions):
        for value in instruction.inputs:
            last_use[value] = max(last_use.get(value, -1), n)
    registers: list[Kind] = []
    free: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    place: dict[int, int] = {}

    def take(value: int) -> int:
        kind = program.kinds[value]
        if not free[kind]:
            free[kind].append(len(registers))
            registers.append(kind)
        place[value] = free[kind].pop()
        return place[value]

    take(0)
    table = np.full((len(program.instructions), COLUMNS), -1, np.int64)
    for n, instruction in enumerate(program.instructions):
        inputs = [place[value] for value in instruction.inputs]
        outputs = []
        for value in instruction.outputs:
            saved = program.kinds[value] in (Kind.SAVED_FIELD, Kind.SAVED_CRITIC)
            outputs.append(-1 if saved and value not in last_use else take(value))
        # inputs die after the outputs have their places: no operation overwrites what it reads
        for value in dict.fromkeys(instruction.inputs):
            if last_use[value] == n:
                free[program.kinds[value]].append(place[value])
        for value, register in zip(instruction.outputs, outputs):
            if register >= 0 and value not in last_use:
                free[program.kinds[value]].append(register)
        table[n, OP] = instruction.op
        table[n, IN_0 : IN_0 + len(inputs)] = inputs
        table[n, OUT_0 : OUT_0 + len(outputs)] = outputs
        table[n, NETWORK], table[n, TIME] = instruction.network, instruction.time
    numbers = np.array([instruction.number for instruction in program.instructions], np.float64)
    return Code(table, numbers, tuple(registers), tuple(place[v] for v in program.results))


@dataclass(frozen=True)
class Sizes:
    """Widths that a workspace depends on, in elements.

    action  D                                       members  E
    hidden  for each network and layer, the width; of a critic, of one member
    wide    row stride of a hidden layer's value    pre      width of all first layers together
    """

    action: int
    members: int
    hidden: tuple[tuple[int, ...], tuple[int, ...]]
    wide: int
    pre: int


@dataclass(frozen=True)
class Layout:
    """Offsets into one workspace for blocks of up to `rows` rows.

    registers (R,); x, z: two buffers of hidden values; scratch: four rows; pre: the observations'
    share of the first layers; size: of the workspace.
    """

    rows: int
    registers: Array
    x: int
    z: int
    scratch: int
    pre: int
    size: int


def lay_out(code: Code, sizes: Sizes, rows: int, elements_in_line: int) -> Layout:
    """Place everything, each on a cache line of its own."""
    top = 0

    def reserve(elements: int) -> int:
        nonlocal top
        at = top
        top += -(-elements // elements_in_line) * elements_in_line
        return at

    def saved(network: int) -> int:
        members = 1 if network == FIELD else sizes.members
        return members * sum(rows * (2 * width + 1) for width in sizes.hidden[network])

    extent = {
        Kind.ACTION: rows * sizes.action,
        Kind.MEMBERS: rows * sizes.members,
        Kind.SCALAR: rows,
        Kind.SAVED_FIELD: saved(FIELD),
        Kind.SAVED_CRITIC: saved(1),
    }
    registers = np.array([reserve(extent[kind]) for kind in code.registers], np.int64)
    x, z = reserve(rows * sizes.wide), reserve(rows * sizes.wide)
    scratch, pre = reserve(4 * sizes.wide), reserve(rows * sizes.pre)
    return Layout(rows, registers, x, z, scratch, pre, top)
