"""The interpreter: runs a program on one block of rows, all in compiled code.

A forward or vjp of a network is one instruction. Between two products with a kernel, each row has
its bias, LayerNorm and activation applied while it is in the cache. The identities used: a row
whose cotangent is zero has a zero product (so with `min` only the attaining member of a critic is
differentiated), and those of `qgf_ref.backends.numba.weights`.

Two ways to share the work between threads: blocks of rows, where threads never meet; or, for few
rows, the *team*, where each thread computes its share of the columns of every product and all else
is done by every thread for itself, so that one barrier for each product is enough. The results'
bits do not depend on either.
"""

from __future__ import annotations

from qgf_ref.backends.numba.barrier import aborted, wait_for_all
from qgf_ref.backends.numba.glue import all_finite, clip_values, reduce_members
from qgf_ref.backends.numba.kernels.cache import inner, kernel
from qgf_ref.backends.numba.kernels.gemm import dot, multiply
from qgf_ref.backends.numba.kernels.rows import activate, normalise, normalised_jacobian
from qgf_ref.backends.numba.kernels.simd import like, panel_width, view
from qgf_ref.backends.numba.layout import IN_0, IN_1, NETWORK, OP, OUT_0, OUT_1, TIME
from qgf_ref.backends.numba.weights import (
    ACTIVATION,
    BIAS,
    DEPTH,
    FAST,
    FIRST,
    IN,
    KERNEL,
    MEMBERS,
    NORM,
    OFFSET,
    OUT,
    PRE,
    SCALE,
    TRANSPOSE,
)
from qgf_ref.backends.program.program import CRITIC, FIELD, Kind, Op

FORWARD, VJP, AXPY, AXPY_WEIGHT, SCALE_BY, CLIP = (
    int(op) for op in (Op.FORWARD, Op.VJP, Op.AXPY, Op.AXPY_WEIGHT, Op.SCALE, Op.CLIP)
)
MULTIPLY, REDUCE_MEAN, FILL, SHARE = (
    int(op) for op in (Op.MULTIPLY, Op.REDUCE_MEAN, Op.FILL, Op.SHARE)
)
ACTION, MEMBER_VALUES, SCALAR = int(Kind.ACTION), int(Kind.MEMBERS), int(Kind.SCALAR)


@inner
def _product(x, x_at, x_row, rows, flat, at, depth, columns, z, z_at, z_row, mode):
    """z = x·W for `rows` rows; in a team, this thread's columns, then all meet."""
    member, members, counters = mode
    width = panel_width(flat.itemsize)
    count = -(-columns // width)
    first, last = count * member // members, count * (member + 1) // members
    multiply(x, x_at, x_row, 1, rows, flat, at, depth, first, last, z, z_at, z_row)
    if members > 1:
        wait_for_all(counters, member, members)


@inner
def _destination(work, z_buffer, shared, mode):
    """Where a product goes: a team's two shared buffers in turn, so that one can still be read."""
    member, members, counters = mode
    if members == 1:
        return work, z_buffer
    own = 8 * (1 + member) + 1
    counters[own] = 1 - counters[own]
    return shared, counters[own] * (shared.size // 2)


@inner
def _forward(net, time, save, x_at, out_at, rows, first_obs, draws, model, memory, mode):
    """One network's forward. Writes y: rows of D for the field, E rows of values for the critic."""
    flat, times, layers, networks, eps, wide, D, pre_wide = model
    work, places, shared = memory
    x_buffer, z_buffer, scratch, pre = places
    depth = networks[net, DEPTH]
    saved = save
    for e in range(networks[net, MEMBERS]):
        source, source_row = x_at, D
        for l in range(depth):
            row = layers[networks[net, FIRST] + e * depth + l]
            columns = row[OUT]
            if l == depth - 1 and net != FIELD:
                weight = view(flat, row[KERNEL], row[IN])
                for r in range(rows):
                    y = dot(view(work, source + r * source_row, row[IN]), weight)
                    work[out_at + e * rows + r] = y + flat[row[BIAS]]
                break
            z, z_at = _destination(work, z_buffer, shared, mode)
            _product(
                work, source, source_row, rows, flat, row[KERNEL], row[IN], columns,
                z, z_at, wide, mode,
            )  # fmt: skip
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
            for r in range(rows):
                z_row = view(z, z_at + r * wide, columns)
                y = view(work, x_buffer + r * wide, columns)
                if l == 0:
                    observed = (first_obs + r) // draws - first_obs // draws
                    constant = view(work, pre + observed * pre_wide + row[PRE], columns)
                    for j in range(columns):
                        sums[j] = z_row[j] + constant[j]
                    if net == FIELD:
                        timed = view(times, time * columns, columns)
                        for j in range(columns):
                            sums[j] += timed[j]
                else:
                    for j in range(columns):
                        sums[j] = z_row[j] + bias[j]
                if save >= 0:
                    x_hat = view(work, saved + r * columns, columns)
                    slope = view(work, saved + (rows + r) * columns, columns)
                if row[NORM]:
                    rstd = normalise(sums, scale, offset, eps[net], networks[net, FAST], x_hat, h)
                    if save >= 0:
                        work[saved + 2 * rows * columns + r] = rstd
                    activate(h, scale, networks[net, ACTIVATION], y, slope)
                else:
                    activate(sums, scale, networks[net, ACTIVATION], y, slope)
            saved += rows * (2 * columns + 1)
            source, source_row = x_buffer, wide


@inner
def _vjp(net, save, bar_at, out_at, rows, model, memory, chosen, mode):
    """x_bar = Σ_e J_eᵀ y_bar_e in the action; rows with a zero cotangent are left out.

    chosen (rows,) is room for the numbers of the rows that take part.
    """
    flat, _, layers, networks, _, wide, D, _ = model
    work, places, shared = memory
    x_buffer, z_buffer, scratch, _ = places
    depth = networks[net, DEPTH]
    for i in range(rows * D):
        work[out_at + i] = like(0, work[0])
    saved = save
    for e in range(networks[net, MEMBERS]):
        base = networks[net, FIRST] + e * depth
        for l in range(depth - 1):
            saved += rows * (2 * layers[base + l, OUT] + 1)
        end = layers[base + depth - 1]
        count = 0
        if net != FIELD:
            weight = view(flat, end[KERNEL], end[IN])
            for r in range(rows):
                y_bar = work[bar_at + e * rows + r]
                if y_bar != like(0, y_bar):
                    out = view(work, z_buffer + count * wide, end[IN])
                    for j in range(end[IN]):
                        out[j] = y_bar * weight[j]
                    chosen[count] = r
                    count += 1
        else:
            for r in range(rows):
                chosen[r] = r
            count = rows
        if count == 0:
            continue
        source, source_at, source_row = work, z_buffer, wide
        if net == FIELD:
            source, source_at = work, bar_at
            source_row = D
            z, z_at = _destination(work, z_buffer, shared, mode)
            _product(
                source, source_at, source_row, count, flat, end[TRANSPOSE], end[OUT], end[IN],
                z, z_at, wide, mode,
            )  # fmt: skip
            source, source_at, source_row = z, z_at, wide
        at = saved
        for back in range(depth - 1):
            l = depth - 2 - back
            row = layers[base + l]
            columns = row[OUT]
            at -= rows * (2 * columns + 1)
            for i in range(count):
                r = chosen[i]
                y_bar = view(source, source_at + i * source_row, columns)
                out = view(work, x_buffer + i * wide, columns)
                slope = view(work, at + (rows + r) * columns, columns)
                if row[NORM]:
                    u = view(work, scratch, columns)
                    for j in range(columns):
                        u[j] = y_bar[j] * slope[j]
                    x_hat = view(work, at + r * columns, columns)
                    normalised_jacobian(u, x_hat, work[at + 2 * rows * columns + r], out)
                else:
                    for j in range(columns):
                        out[j] = y_bar[j] * slope[j]
            z, z_at = _destination(work, z_buffer, shared, mode)
            _product(
                work, x_buffer, wide, count, flat, row[TRANSPOSE], columns, row[IN],
                z, z_at, wide, mode,
            )  # fmt: skip
            source, source_at, source_row = z, z_at, wide
        for i in range(count):
            out = view(work, out_at + chosen[i] * D, layers[base, IN])
            x_bar = view(source, source_at + i * source_row, layers[base, IN])
            for j in range(x_bar.size):
                out[j] += x_bar[j]


@kernel
def run_block(
    table, numbers, registers, results, kinds, flat, times, layers, networks, eps, pre_kernel,
    pre_bias, obs_dim, wide, pre_wide, places, obs, noise, weight, draws, first, rows, work, shared,
    counters, chosen, member, members, answers, batch, status,
):  # fmt: skip
    """Run the program on rows first … first + rows − 1.

    obs (B/draws · O), noise (B · D), weight (B,): flat inputs of the whole batch; answers: its
    results, flat, one after another in the shapes of the loop; B `batch`. work, shared, counters,
    chosen: memory of this thread, of the team, its barrier, and row numbers. times: the field's
    time constants. status[0] becomes 1 when a network, a product or a sum leaves the finite
    numbers.
    """
    D = layers[networks[FIELD, FIRST], IN]
    model = (flat, times, layers, networks, eps, wide, D, pre_wide)
    memory = (work, (places[0], places[1], places[2], places[3]), shared)
    mode = (member, members, counters)
    E = networks[CRITIC, MEMBERS]
    size = rows * D
    width = panel_width(flat.itemsize)

    # the observations' share of all first layers, once for all draws
    first_seen = first // draws
    seen = (first + rows - 1) // draws - first_seen + 1
    multiply(
        obs, first_seen * obs_dim, obs_dim, 1, seen, flat, pre_kernel, obs_dim, 0,
        pre_wide // width, work, places[3], pre_wide,
    )  # fmt: skip
    for r in range(seen):
        for j in range(pre_wide):
            work[places[3] + r * pre_wide + j] += flat[pre_bias + j]
    for r in range(rows):
        for j in range(D):
            work[registers[0] + r * D + j] = noise[(first + r) * D + j]

    for n in range(len(table)):
        code = table[n]
        op, number = code[OP], like(numbers[n], work[0])
        x = registers[code[IN_0]] if code[IN_0] >= 0 else -1
        y = registers[code[IN_1]] if code[IN_1] >= 0 else -1
        out = registers[code[OUT_0]]
        second = registers[code[OUT_1]] if code[OUT_1] >= 0 else -1
        if op == FORWARD:
            _forward(
                code[NETWORK], code[TIME], second, x, out, rows, first, draws, model, memory, mode
            )
        elif op == VJP:
            _vjp(code[NETWORK], y, x, out, rows, model, memory, chosen, mode)
        elif op == AXPY:
            for i in range(size):
                work[out + i] = work[y + i] + number * work[x + i]
        elif op == AXPY_WEIGHT:
            for r in range(rows):
                for i in range(r * D, r * D + D):
                    work[out + i] = work[y + i] + weight[first + r] * work[x + i]
        elif op == SCALE_BY:
            for i in range(size):
                work[out + i] = number * work[x + i]
        elif op == CLIP:
            clip_values(x, out, second, size, number, work)
        elif op == MULTIPLY:
            for i in range(size):
                work[out + i] = work[x + i] * work[y + i]
        elif op == FILL:
            for i in range(rows if kinds[code[OUT_0]] == SCALAR else size):
                work[out + i] = number
        elif op == SHARE:
            for e in range(E):
                for r in range(rows):
                    work[out + e * rows + r] = work[x + r] * work[y + e * rows + r]
        else:
            reduce_members(x, out, second, rows, E, op == REDUCE_MEAN, work)
        if op <= SCALE_BY:
            of_critic = op == FORWARD and code[NETWORK] != FIELD
            if not all_finite(work, out, E * rows if of_critic else size):
                status[0] = 1
        if aborted(counters):
            return

    if member == 0:
        at = 0
        for register in results:
            source, kind = registers[register], kinds[register]
            if kind == ACTION:
                for i in range(size):
                    answers[at + first * D + i] = work[source + i]
                at += batch * D
            else:
                count = E if kind == MEMBER_VALUES else 1
                for e in range(count):
                    for r in range(rows):
                        answers[at + e * batch + first + r] = work[source + e * rows + r]
                at += batch * count
