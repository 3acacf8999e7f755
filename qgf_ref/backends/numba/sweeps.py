"""A network's forward and vjp on a block of rows, in compiled code.

Between two products with a kernel, each row has its bias, LayerNorm and activation applied while it
is in the cache. The identities used: a row whose cotangent is zero has a zero product (so with
`min` only the attaining member of a critic is differentiated), and those of
`qgf_ref.backends.numba.weights`. What a forward saves for its products, member by member and layer
by layer: x_hat (rows, F), slope (rows, F), rstd (rows,), and where LayerNorm comes after the
activation z (rows, F). A product that a team makes is read by all of its threads: what a residual
block adds to it, on the way back, each thread carries in memory of its own.
"""

from __future__ import annotations

import math

import numpy as np

from qgf_ref.backends.numba.barrier import wait_for_all
from qgf_ref.backends.numba.kernels.cache import inner, spliced
from qgf_ref.backends.numba.kernels.gemm import dot, multiply
from qgf_ref.backends.numba.kernels.layers import layer_row, layer_row_back
from qgf_ref.backends.numba.kernels.simd import like, panel_width, view
from qgf_ref.backends.numba.layout import (
    CARRIED,
    DRAWS,
    FIRST,
    MEMBER,
    PRE_WIDE,
    PRECISE,
    ROWS,
    SCRATCH,
    TEAM,
    WIDE,
    X,
    Z,
)
from qgf_ref.backends.numba.layout import PRE as PRE_PLACE
from qgf_ref.backends.numba.weights import (
    ACTIVATION,
    BIAS,
    DEPTH,
    FAST,
    FIRST_LAYER,
    IN,
    KERNEL,
    MEMBERS,
    NORM,
    OFFSET,
    OUT,
    PRE,
    RESIDUAL,
    SAVED,
    SCALAR_OUTPUT,
    SCALE,
    TIMED,
    TRANSPOSE,
)
from qgf_ref.ops.dense import NORM_AFTER
from qgf_ref.ops.time_embedding import TIME_SCALE


@inner
def product(x, x_at, x_row, rows, flat, at_kernel, depth, columns, at, memory):
    """x·W for `rows` rows, and where it is; in a team, this thread's columns, then all meet.

    A team's products go to two shared buffers in turn, so that one can still be read.
    """
    work, shared, counters, _ = memory
    member, members, wide = at[MEMBER], at[TEAM], at[WIDE]
    count = -(-columns // panel_width(flat.itemsize))
    first, last = count * member // members, count * (member + 1) // members
    if members == 1:
        z, z_at = work, at[Z]
    else:
        own = 8 * (1 + member) + 1
        counters[own] = 1 - counters[own]
        z, z_at = shared, counters[own] * (shared.size // 2)
    multiply(x, x_at, x_row, 1, rows, flat, at_kernel, depth, first, last, z, z_at, wide)
    if members > 1:
        wait_for_all(counters, member, members)
    return z, z_at


@inner
def _embed(time, precise, frequencies, out):
    """out = emb(time): `qgf_ref.ops.time_embedding`, of one row."""
    half = frequencies.size
    for i in range(half):
        if precise:
            angle = float(time) * (TIME_SCALE * frequencies[i])
        else:
            scaled = np.float32(np.float32(time) * np.float32(TIME_SCALE))
            angle = float(np.float32(scaled * np.float32(frequencies[i])))
        out[i] = like(math.cos(angle), out[0])
        out[half + i] = like(math.sin(angle), out[0])


@spliced
def _first_layer(row, r, time, time_at, z, sums, room, at, model, work):
    """sums = z and what observation and time add to it in the first layer of row r."""
    flat, times, frequencies = model[0], model[1], model[5]
    columns = row[OUT]
    observed = (at[FIRST] + r) // at[DRAWS] - at[FIRST] // at[DRAWS]
    constant = view(work, at[PRE_PLACE] + observed * at[PRE_WIDE] + row[PRE], columns)
    for j in range(columns):
        sums[j] = z[j] + constant[j]
    if time >= 0:
        timed = view(times, time * at[WIDE], columns)
        for j in range(columns):
            sums[j] += timed[j]
    elif time_at >= 0:
        _embed(work[time_at + r], at[PRECISE], frequencies, room)
        for i in range(2 * frequencies.size):
            weight = view(flat, row[TIMED] + i * columns, columns)
            for j in range(columns):
                sums[j] += room[i] * weight[j]


@inner
def forward(net, time, time_at, save, x_at, out_at, at, model, memory):
    """y: rows of D numbers, or of each member `rows` values. time: which constant, or time_at: the
    rows' own times; save: where what the products need goes, or −1.
    """
    flat, layers, networks, eps = model[0], model[2], model[3], model[4]
    work, rows, wide = memory[0], at[ROWS], at[WIDE]
    depth, scratch = networks[net, DEPTH], at[SCRATCH]
    D = layers[networks[net, FIRST_LAYER], IN]
    place = save
    for e in range(networks[net, MEMBERS]):
        source, source_row = x_at, D
        for l in range(depth):
            row = layers[networks[net, FIRST_LAYER] + e * depth + l]
            columns = row[OUT]
            if l == depth - 1 and networks[net, SCALAR_OUTPUT]:
                weight = view(flat, row[KERNEL], row[IN])
                for r in range(rows):
                    y = dot(view(work, source + r * source_row, row[IN]), weight)
                    work[out_at + e * rows + r] = y + flat[row[BIAS]]
                break
            z, z_at = product(
                work, source, source_row, rows, flat, row[KERNEL], row[IN], columns, at, memory
            )
            if l == depth - 1:
                for r in range(rows):
                    for j in range(columns):
                        work[out_at + r * D + j] = z[z_at + r * wide + j] + flat[row[BIAS] + j]
                break
            scale, offset = view(flat, row[SCALE], columns), view(flat, row[OFFSET], columns)
            bias = view(flat, row[BIAS], columns)
            # all rows apart in memory: LLVM vectorises a loop only where nothing may overlap
            sums, h = view(work, scratch, columns), view(work, scratch + wide, columns)
            x_hat = view(work, scratch + 2 * wide, columns)
            slope = view(work, scratch + 3 * wide, columns)
            room = view(work, scratch + wide, wide)
            for r in range(rows):
                z_row = view(z, z_at + r * wide, columns)
                y = value = view(work, at[X] + r * wide, columns)
                if row[RESIDUAL]:
                    y = view(work, scratch + 4 * wide, columns)
                if l == 0:
                    _first_layer(row, r, time, time_at, z_row, sums, room, at, model, work)
                else:
                    for j in range(columns):
                        sums[j] = z_row[j] + bias[j]
                if save >= 0:
                    x_hat = view(work, place + r * columns, columns)
                    slope = view(work, place + (rows + r) * columns, columns)
                rstd = layer_row(
                    sums, row[NORM], scale, offset, eps[net], networks[net, FAST],
                    networks[net, ACTIVATION], x_hat, h, y, slope,
                )  # fmt: skip
                if row[RESIDUAL]:
                    for j in range(columns):
                        value[j] += y[j]
                if save >= 0:
                    work[place + 2 * rows * columns + r] = rstd
                if save >= 0 and row[NORM] == NORM_AFTER:
                    kept = view(work, place + (2 * columns + 1) * rows + r * columns, columns)
                    for j in range(columns):
                        kept[j] = sums[j]
            place += rows * row[SAVED]
            source, source_row = at[X], wide


@spliced
def extent(net, e, rows, layers, networks):
    """Numbers that a forward saves for one member."""
    depth, total = networks[net, DEPTH], 0
    for l in range(depth - 1):
        total += rows * layers[networks[net, FIRST_LAYER] + e * depth + l, SAVED]
    return total


@spliced
def choose_rows(net, e, bar_at, at, model, memory):
    """How many rows have a cotangent that is not 0 (of a field, all); memory[3] gets which."""
    networks, work, chosen = model[3], memory[0], memory[3]
    count, rows = np.int64(0), at[ROWS]
    for r in range(rows):
        if not networks[net, SCALAR_OUTPUT] or work[bar_at + e * rows + r] != like(0, work[0]):
            chosen[count] = r
            count += 1
    return count


@spliced
def start_back(net, e, bar_at, count, at, model, memory):
    """The cotangents of the last hidden values, a row for each of those chosen."""
    flat, layers, networks = model[0], model[2], model[3]
    work, chosen, rows, wide = memory[0], memory[3], at[ROWS], at[WIDE]
    depth = networks[net, DEPTH]
    end = layers[networks[net, FIRST_LAYER] + e * depth + depth - 1]
    if not networks[net, SCALAR_OUTPUT]:
        return product(
            work, bar_at, end[OUT], rows, flat, end[TRANSPOSE], end[OUT], end[IN], at, memory
        )
    weight = view(flat, end[KERNEL], end[IN])
    for i in range(count):
        y_bar = work[bar_at + e * rows + chosen[i]]
        out = view(work, at[Z] + i * wide, end[IN])
        for j in range(end[IN]):
            out[j] = y_bar * weight[j]
    return work, at[Z]


@spliced
def with_carried(y_bar, carries, row, i, at, work):
    """A layer's cotangent, with what the residual block after it carried past (if one `carries`).

    A residual layer's own is carried past it.
    """
    if carries or row[RESIDUAL]:
        kept = view(work, at[CARRIED] + i * at[WIDE], row[OUT])
        for j in range(row[OUT]):
            kept[j] = kept[j] + y_bar[j] if carries else y_bar[j]
        y_bar = kept
    return y_bar


@spliced
def add_rows(source, source_at, count, out_at, D, wide, memory):
    """Add the rows of a product to those rows of a register that take part."""
    work, chosen = memory[0], memory[3]
    for i in range(count):
        out = view(work, out_at + chosen[i] * D, D)
        row = view(source, source_at + i * wide, D)
        for j in range(D):
            out[j] += row[j]


@spliced
def clear(out_at, size, work):
    """Zeros."""
    for i in range(size):
        work[out_at + i] = like(0, work[0])


@inner
def vjp(net, save, bar_at, out_at, at, model, memory):
    """x_bar = Σ_e J_eᵀ y_bar_e in the action; rows with a zero cotangent are left out."""
    flat, layers, networks = model[0], model[2], model[3]
    work, chosen, rows, wide = memory[0], memory[3], at[ROWS], at[WIDE]
    depth = networks[net, DEPTH]
    D = layers[networks[net, FIRST_LAYER], IN]
    clear(out_at, rows * D, work)
    saved = save
    for e in range(networks[net, MEMBERS]):
        base = networks[net, FIRST_LAYER] + e * depth
        saved += extent(net, e, rows, layers, networks)
        count = choose_rows(net, e, bar_at, at, model, memory)
        if count == 0:
            continue
        source, source_at = start_back(net, e, bar_at, count, at, model, memory)
        place = saved
        for back in range(depth - 1):
            row = layers[base + depth - 2 - back]
            carries = layers[base + depth - 1 - back, RESIDUAL]
            columns = row[OUT]
            place -= rows * row[SAVED]
            u, scale = view(work, at[SCRATCH], columns), view(flat, row[SCALE], columns)
            for i in range(count):
                r = chosen[i]
                y_bar = view(source, source_at + i * wide, columns)
                layer_row_back(
                    with_carried(y_bar, carries, row, i, at, work), row[NORM], scale,
                    view(work, place + r * columns, columns), work[place + 2 * rows * columns + r],
                    view(work, place + (rows + r) * columns, columns), u,
                    view(work, at[X] + i * wide, columns),
                )  # fmt: skip
            source, source_at = product(
                work, at[X], wide, count, flat, row[TRANSPOSE], columns, row[IN], at, memory
            )
        add_rows(source, source_at, count, out_at, D, wide, memory)
