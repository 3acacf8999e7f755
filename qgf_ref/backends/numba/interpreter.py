"""The interpreter: runs a program on one block of rows, all in compiled code.

A forward or a product of a network is one instruction (`sweeps`, `tangents`). Two ways
to share the work between threads: blocks of rows, where threads never meet; or, for few rows, the
*team*, where each thread computes its share of the columns of every product and all else is done by
every thread for itself, so that one barrier for each product is enough. The results' bits do not
depend on either. What each instruction means: `qgf_ref.backends.program.executor`.
"""

from __future__ import annotations

import numpy as np

from qgf_ref.backends.numba.barrier import aborted
from qgf_ref.backends.numba.glue import all_finite, clip_values, nearest, reduce_members
from qgf_ref.backends.numba.kernels.cache import inner, kernel, spliced
from qgf_ref.backends.numba.kernels.exponential import exp
from qgf_ref.backends.numba.kernels.gemm import multiply
from qgf_ref.backends.numba.kernels.simd import like, panel_width
from qgf_ref.backends.numba.layout import (
    BATCH,
    DRAWS,
    FIRST,
    MEMBER,
    OBS_DIM,
    PRE,
    PRE_BIAS,
    PRE_KERNEL,
    PRE_WIDE,
    ROWS,
)
from qgf_ref.backends.numba.sweeps import forward, vjp
from qgf_ref.backends.numba.tangents import hvp, jvp
from qgf_ref.backends.numba.weights import IN, MEMBERS
from qgf_ref.backends.program import program as programs
from qgf_ref.backends.program.program import CRITIC, NOISE, Kind, Op
from qgf_ref.backends.program.registers import (
    COUNT,
    IN_0,
    IN_1,
    IN_2,
    NETWORK,
    NUMBER,
    OP,
    OUT_0,
    OUT_1,
    TIME,
)

# enumerations are not constants to Numba
FORWARD, VJP, JVP, HVP, AXPY, AXPY_ROW, SCALE, SCALE_ROW, DIVIDE, ROW_DOT, RATIO = map(int, (
    Op.FORWARD, Op.VJP, Op.JVP, Op.HVP, Op.AXPY, Op.AXPY_ROW, Op.SCALE, Op.SCALE_ROW, Op.DIVIDE,
    Op.ROW_DOT, Op.RATIO,
))  # fmt: skip
CLIP, MULTIPLY, REDUCE_MIN, REDUCE_MEAN, FILL, SHARE, WHERE_POSITIVE, PLUS, AT_LEAST = map(int, (
    Op.CLIP, Op.MULTIPLY, Op.REDUCE_MIN, Op.REDUCE_MEAN, Op.FILL, Op.SHARE, Op.WHERE_POSITIVE,
    Op.PLUS, Op.AT_LEAST,
))  # fmt: skip
NEAREST, ROOT, KEEP, SIGMOID, DRAW = map(int, (
    Op.NEAREST, Op.ROOT, Op.KEEP, Op.SIGMOID, Op.DRAW,
))  # fmt: skip
LAST_CHECKED = int(programs.LAST_CHECKED)
SELDOM = (
    JVP, HVP, SCALE_ROW, DIVIDE, ROW_DOT, RATIO, WHERE_POSITIVE, PLUS, AT_LEAST, NEAREST, ROOT,
    KEEP, SIGMOID,
)  # fmt: skip
"""Instructions that only some estimators need: without them the interpreter compiles in half the
time.
"""
ACTION, MEMBER_VALUES = int(Kind.ACTION), int(Kind.MEMBERS)
WEIGHT = programs.WEIGHT


@spliced
def _load(registers, batch, model, at, D, memory):
    """The block's noise and weights into their registers, and the observations' share of all first
    layers, once for all draws.
    """
    obs, noise, weight, _ = batch
    flat, places, work = model[0], at, memory[0]
    first, rows, draws = at[FIRST], at[ROWS], at[DRAWS]
    obs_dim, pre_wide, pre = places[OBS_DIM], places[PRE_WIDE], places[PRE]
    first_seen = first // draws
    seen = (first + rows - 1) // draws - first_seen + 1
    start = np.int64(0)  # a literal's type would have `multiply` compiled once more
    multiply(
        obs, first_seen * obs_dim, obs_dim, 1, seen, flat, places[PRE_KERNEL], obs_dim, start,
        pre_wide // panel_width(flat.itemsize), work, pre, pre_wide,
    )  # fmt: skip
    for r in range(seen):
        for j in range(pre_wide):
            work[pre + r * pre_wide + j] += flat[places[PRE_BIAS] + j]
    for i in range(rows * D):
        work[registers[NOISE] + i] = noise[first * D + i]
    for r in range(rows):
        work[registers[WEIGHT] + r] = weight[first + r]


@inner
def _between(op, x, y, s, out, second, rows, width, numbers, work):
    """A common instruction that asks no network: on rows of `width` numbers."""
    size = rows * width
    number = like(numbers[0], work[0]) if numbers.size else like(0, work[0])
    if op == AXPY:
        for i in range(size):
            work[out + i] = work[y + i] + number * work[x + i]
    elif op == AXPY_ROW:
        for r in range(rows):
            for i in range(r * width, r * width + width):
                work[out + i] = work[y + i] + work[s + r] * work[x + i]
    elif op == SCALE:
        for i in range(size):
            work[out + i] = number * work[x + i]
    elif op == CLIP:
        clip_values(x, out, second, size, number, work)
    elif op == MULTIPLY:
        for i in range(size):
            work[out + i] = work[x + i] * work[y + i]
    elif op == FILL:
        for i in range(size):
            work[out + i] = number


@inner
def _seldom_between(op, x, y, s, out, rows, width, numbers, work):
    """Those of `SELDOM` that ask no network."""
    size = rows * width
    zero = like(0, work[0])
    number = like(numbers[0], work[0]) if numbers.size else zero
    if op == SCALE_ROW:
        for r in range(rows):
            for i in range(r * width, r * width + width):
                work[out + i] = work[y + r] * work[x + i]
    elif op == DIVIDE:
        for r in range(rows):
            for i in range(r * width, r * width + width):
                work[out + i] = work[s + i] if work[y + r] == zero else work[x + i] / work[y + r]
    elif op == RATIO:
        for i in range(size):
            stopped = work[x + i] <= zero or work[y + i] <= zero
            work[out + i] = zero if stopped else work[x + i] / work[y + i]
    elif op == WHERE_POSITIVE:
        for i in range(size):
            work[out + i] = work[x + i] if work[y + i] > zero else zero
    elif op == PLUS:
        for i in range(size):
            work[out + i] = work[x + i] + number
    elif op == AT_LEAST:
        for i in range(size):
            work[out + i] = number if work[x + i] < number else work[x + i]
    elif op == NEAREST:
        nearest(x, out, rows, numbers, work)
    elif op == ROOT:
        for i in range(size):
            work[out + i] = np.sqrt(work[x + i])
    elif op == SIGMOID:
        for i in range(size):
            z = work[x + i]
            e = exp(-abs(z))  # ≤ 1: never overflows
            work[out + i] = (like(1, z) if z > zero else e) / (like(1, z) + e)
    elif op == KEEP:
        for i in range(size):
            work[out + i] = zero
        for column in numbers:
            for r in range(rows):
                i = r * width + int(column)
                work[out + i] = work[x + i]


@kernel
def run_block(program, model, at, batch, memory, answers, status, seldom):
    """Run the program on rows FIRST … FIRST + ROWS − 1; at: see `layout.PLACES`.

    program  the code's table and numbers; the registers' places and kinds; the results' registers
    model    weights (flat), constants of the times, and the tables of layers and networks, eps,
             frequencies of the time embedding
    batch    obs (B/draws · O), noise (B · D), weight (B,), drawn (n · B · D), flat
    memory   of this thread, of the team, its barrier, and room for the numbers of rows
    answers  the results, flat, one after another in the shapes of the loop
    status   [0] becomes 1 when a network, a product or a sum leaves the finite numbers
    seldom   None where the program has none of `SELDOM`: then they are not compiled
    """
    table, numbers, registers, kinds, results = program
    layers, networks = model[2], model[3]
    work, counters = memory[0], memory[2]
    rows, first = at[ROWS], at[FIRST]
    D = layers[0, IN]
    E = networks[CRITIC, MEMBERS] if len(networks) > CRITIC else 1  # an actor has none
    _load(registers, batch, model, at, D, memory)

    for n in range(len(table)):
        code = table[n]
        op, net = code[OP], code[NETWORK]
        x = registers[code[IN_0]] if code[IN_0] >= 0 else -1
        y = registers[code[IN_1]] if code[IN_1] >= 0 else -1
        s = registers[code[IN_2]] if code[IN_2] >= 0 else -1
        out = registers[code[OUT_0]]
        second = registers[code[OUT_1]] if code[OUT_1] >= 0 else -1
        kind = kinds[code[OUT_0]]
        width = D if kind == ACTION else E if kind == MEMBER_VALUES else 1
        if op == FORWARD:
            forward(net, code[TIME], y, second, x, out, at, model, memory)
        elif op == VJP:
            vjp(net, y, x, out, at, model, memory)
        elif op == JVP and seldom is not None:
            jvp(net, y, x, out, at, model, memory)
        elif op == HVP and seldom is not None:
            hvp(net, s, x, y, out, at, model, memory)
        elif op == ROW_DOT and seldom is not None:
            for r in range(rows):
                total = like(0, work[0])
                for i in range(r * D, r * D + D):
                    total += work[x + i] * work[y + i]
                work[out + r] = total
        elif op == SHARE:
            for e in range(E):
                for r in range(rows):
                    work[out + e * rows + r] = work[x + r] * work[y + e * rows + r]
        elif op == DRAW:
            drawn = (int(numbers[code[NUMBER]]) * at[BATCH] + first) * D
            for i in range(rows * D):
                work[out + i] = batch[3][drawn + i]
        elif op in (REDUCE_MIN, REDUCE_MEAN):
            reduce_members(x, out, second, rows, E, op == REDUCE_MEAN, work)
        else:
            values = numbers[code[NUMBER] : code[NUMBER] + code[COUNT]]
            _between(op, x, y, s, out, second, rows, width, values, work)
            if seldom is not None:
                _seldom_between(op, x, y, s, out, rows, width, values, work)
        if op <= LAST_CHECKED and not all_finite(work, out, rows * width):
            status[0] = 1
        if aborted(counters):
            return

    if at[MEMBER] == 0:
        place, batch_rows = 0, at[BATCH]
        for register in results:
            source, kind = registers[register], kinds[register]
            if kind == ACTION:
                for i in range(rows * D):
                    answers[place + first * D + i] = work[source + i]
                place += batch_rows * D
            else:
                count = E if kind == MEMBER_VALUES else 1
                for e in range(count):
                    for r in range(rows):
                        answers[place + e * batch_rows + first + r] = work[source + e * rows + r]
                place += batch_rows * count
