"""A network's jvp and Hessian product on a block of rows, in compiled code: see `sweeps`."""

from __future__ import annotations

import numpy as np

from qgf_ref.backends.numba.kernels.cache import inner
from qgf_ref.backends.numba.kernels.layers import layer_row_bent, layer_row_tangent
from qgf_ref.backends.numba.kernels.simd import view
from qgf_ref.backends.numba.layout import ROWS, SCRATCH, TANGENTS, WIDE, X, Z
from qgf_ref.backends.numba.sweeps import (
    add_rows,
    choose_rows,
    clear,
    extent,
    product,
    start_back,
    with_carried,
)
from qgf_ref.backends.numba.weights import (
    ACTIVATION,
    DEPTH,
    FIRST_LAYER,
    IN,
    KERNEL,
    MEMBERS,
    NORM,
    OFFSET,
    OUT,
    RESIDUAL,
    SAVED,
    SCALE,
    TRANSPOSE,
)
from qgf_ref.ops.dense import NORM_AFTER


@inner
def _tangents(net, e, saved, dot_at, count, tangents, at, model, memory):
    """The tangents of the last hidden values, in X, from the action's; those before each LayerNorm
    of one member go to `tangents` unless that is −1.
    """
    flat, layers, networks = model[0], model[2], model[3]
    work, chosen, rows, wide = memory[0], memory[3], at[ROWS], at[WIDE]
    depth = networks[net, DEPTH]
    base = networks[net, FIRST_LAYER] + e * depth
    D = layers[base, IN]
    for i in range(count):
        for j in range(D):
            work[at[X] + i * wide + j] = work[dot_at + chosen[i] * D + j]
    place, keep = saved, tangents >= 0
    for l in range(depth - 1):
        row = layers[base + l]
        columns = row[OUT]
        z, z_at = product(work, at[X], wide, count, flat, row[KERNEL], row[IN], columns, at, memory)
        u, scale = view(work, at[SCRATCH], columns), view(flat, row[SCALE], columns)
        for i in range(count):
            r = chosen[i]
            y_dot = value = view(work, at[X] + i * wide, columns)
            if row[RESIDUAL]:
                y_dot = view(work, at[SCRATCH] + 4 * wide, columns)
            z_dot = view(z, z_at + i * wide, columns)
            if keep:
                kept = view(work, tangents + i * columns, columns)
                for j in range(columns):
                    kept[j] = z_dot[j]
            layer_row_tangent(
                z_dot, row[NORM], scale, view(work, place + r * columns, columns),
                work[place + 2 * rows * columns + r],
                view(work, place + (rows + r) * columns, columns), u, y_dot,
            )  # fmt: skip
            if row[RESIDUAL]:
                for j in range(columns):
                    value[j] += y_dot[j]
        place += rows * row[SAVED]
        tangents += rows * columns


@inner
def jvp(net, save, dot_at, out_at, at, model, memory):
    """y_dot = J x_dot of a field, (rows, D)."""
    layers, networks = model[2], model[3]
    work, chosen, rows = memory[0], memory[3], at[ROWS]
    for r in range(rows):
        chosen[r] = r
    # not literals, whose types would have it compiled once more
    _tangents(net, np.int64(0), save, dot_at, rows, np.int64(-1), at, model, memory)
    end = layers[networks[net, FIRST_LAYER] + networks[net, DEPTH] - 1]
    D = end[OUT]
    z, z_at = product(work, at[X], at[WIDE], rows, model[0], end[KERNEL], end[IN], D, at, memory)
    clear(out_at, rows * D, work)
    add_rows(z, z_at, rows, out_at, D, at[WIDE], memory)


@inner
def hvp(net, save, dot_at, bar_at, out_at, at, model, memory):
    """Σ_e y_bar_e ∂²y_e/∂a² x_dot: one sweep of tangents, one back with cotangents and theirs.

    Only members and rows with a cotangent that is not zero take part. Cotangents and their
    derivatives are the first and second `count` rows of one product.
    """
    flat, layers, networks = model[0], model[2], model[3]
    work, chosen, rows, wide = memory[0], memory[3], at[ROWS], at[WIDE]
    depth, scratch = networks[net, DEPTH], at[SCRATCH]
    D = layers[networks[net, FIRST_LAYER], IN]
    clear(out_at, rows * D, work)
    saved = save
    for e in range(networks[net, MEMBERS]):
        base = networks[net, FIRST_LAYER] + e * depth
        count = choose_rows(net, e, bar_at, at, model, memory)
        first, saved = saved, saved + extent(net, e, rows, layers, networks)
        if count == 0:
            continue
        _tangents(net, e, first, dot_at, count, at[TANGENTS], at, model, memory)
        source, source_at = start_back(net, e, bar_at, count, at, model, memory)
        for i in range(count):
            clear(at[Z] + (count + i) * wide, layers[base + depth - 1, IN], work)
        place, tangents = saved, at[TANGENTS]
        for l in range(depth - 1):
            tangents += rows * layers[base + l, OUT]
        for back in range(depth - 1):
            row = layers[base + depth - 2 - back]
            columns = row[OUT]
            place -= rows * row[SAVED]
            carries = layers[base + depth - 1 - back, RESIDUAL]
            # without LayerNorm after the activation, never read
            z_at = place + (2 * columns + 1) * rows if row[NORM] == NORM_AFTER else place
            tangents -= rows * columns
            for i in range(count):
                r = chosen[i]
                y_bar = view(source, source_at + i * wide, columns)
                y_bar_dot = view(source, source_at + (count + i) * wide, columns)
                layer_row_bent(
                    with_carried(y_bar, carries, row, i, at, work),
                    with_carried(y_bar_dot, carries, row, count + i, at, work),
                    view(work, tangents + i * columns, columns), row[NORM],
                    view(flat, row[SCALE], columns), view(flat, row[OFFSET], columns),
                    networks[net, ACTIVATION], view(work, z_at + r * columns, columns),
                    view(work, place + r * columns, columns),
                    work[place + 2 * rows * columns + r],
                    view(work, place + (rows + r) * columns, columns),
                    view(work, scratch, columns), view(work, scratch + wide, columns),
                    view(work, scratch + 2 * wide, columns),
                    view(work, scratch + 3 * wide, columns),
                    view(work, at[X] + i * wide, columns),
                    view(work, at[X] + (count + i) * wide, columns),
                )  # fmt: skip
            # of the first layer, the cotangents end here
            skip = count if back == depth - 2 else 0
            source, source_at = product(
                work, at[X] + skip * wide, wide, 2 * count - skip, flat, row[TRANSPOSE], columns,
                row[IN], at, memory,
            )  # fmt: skip
        add_rows(source, source_at, count, out_at, D, wide, memory)
