"""From a program's values to registers, which are used again as soon as a value is dead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import NOISE, WEIGHT, Kind, Op, Program

NAMES = "OP", "IN_0", "IN_1", "IN_2", "OUT_0", "OUT_1", "NETWORK", "TIME", "NUMBER", "COUNT"
COLUMNS = len(NAMES)
OP, IN_0, IN_1, IN_2, OUT_0, OUT_1, NETWORK, TIME, NUMBER, COUNT = range(COLUMNS)
"""Columns of an interpreter's code: one row for each instruction; −1 where nothing is meant.

TIME   of a forward at one time for all rows: which of `Code.times`
NUMBER, COUNT  the instruction's numbers: the first, and how many
"""


@dataclass(frozen=True)
class Code:
    """What an interpreter reads. table (n, COLUMNS) int64, numbers (N,) float64.

    registers  the kind of each register; noise and weight are in the first two
    results    the registers of the program's results, in order
    times      (network, time): the forwards' times that hold for all rows
    """

    table: Array
    numbers: Array
    registers: tuple[int, ...]
    results: tuple[int, ...]
    times: tuple[tuple[int, float], ...]

    def asks(self, op: Op) -> bool:
        """Whether there is such an instruction."""
        return bool((self.table[:, OP] == op).any())


def assign(program: Program) -> Code:
    """Give every value a register. What a forward saves gets one only if a product reads it."""
    last_use = {value: len(program.instructions) for value in program.results}
    for n, instruction in enumerate(program.instructions):
        for value in instruction.inputs:
            last_use[value] = max(last_use.get(value, -1), n)
    registers: list[int] = []
    free: dict[int, list[int]] = {kind: [] for kind in program.kinds}
    place: dict[int, int] = {}

    def take(value: int) -> int:
        kind = program.kinds[value]
        if not free[kind]:
            free[kind].append(len(registers))
            registers.append(kind)
        place[value] = free[kind].pop()
        return place[value]

    take(NOISE), take(WEIGHT)
    table = np.full((len(program.instructions), COLUMNS), -1, np.int64)
    numbers: list[float] = []
    times: dict[tuple[int, float], int] = {}
    for n, instruction in enumerate(program.instructions):
        inputs = [place[value] for value in instruction.inputs]
        outputs = []
        for value in instruction.outputs:
            unread = program.kinds[value] >= len(Kind) and value not in last_use
            outputs.append(-1 if unread else take(value))
        # inputs die after the outputs have their places: no operation overwrites what it reads
        for value in dict.fromkeys(instruction.inputs):
            if last_use[value] == n:
                free[program.kinds[value]].append(place[value])
        for value, register in zip(instruction.outputs, outputs):
            if register >= 0 and value not in last_use:
                free[program.kinds[value]].append(register)
        table[n, OP], table[n, NETWORK] = instruction.op, instruction.network
        table[n, IN_0 : IN_0 + len(inputs)] = inputs
        table[n, OUT_0 : OUT_0 + len(outputs)] = outputs
        table[n, NUMBER], table[n, COUNT] = len(numbers), len(instruction.numbers)
        if instruction.op == Op.FORWARD and instruction.numbers:
            when = instruction.network, instruction.numbers[0]
            table[n, TIME] = times.setdefault(when, len(times))
        numbers.extend(instruction.numbers)
    results = tuple(place[value] for value in program.results)
    return Code(table, np.array(numbers, np.float64), tuple(registers), results, tuple(times))
