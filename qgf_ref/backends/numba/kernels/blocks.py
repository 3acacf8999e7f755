"""The dense block in compiled code, on whole arrays: forward, jvp, vjp, parameters' cotangents.

Rows go through a block at a time: a matrix product into a buffer that stays in the core's cache,
and from there, row by row, bias, LayerNorm and activation. Weights are packed at each call, which
costs as much as one to three rows of the batch for every hundred. Arrays are passed flat (1-D),
with their shapes beside them; the last axis of every buffer is padded. `normed`: see
`qgf_ref.ops.dense.ORDERS`.
"""

from __future__ import annotations

from qgf_ref.backends.numba.kernels.cache import inner, kernel, spliced
from qgf_ref.backends.numba.kernels.gemm import dot, multiply, multiply_panels
from qgf_ref.backends.numba.kernels.packing import (
    BLOCK_BYTES,
    CHUNK,
    PAGE,
    block_rows,
    copy_rows,
    pack,
    pack_rows,
    pack_strips,
    pack_transposed,
    padded,
    panel_width_of,
)
from qgf_ref.backends.numba.kernels.rows import activate, normalise, normalised_jacobian
from qgf_ref.backends.numba.kernels.simd import TILE_ROWS, like, view
from qgf_ref.ops.dense import NORM_AFTER

NO_ACTIVATION = -1
FEW_ROWS = 16
"""So many rows, or half as many if those of W are a page apart, go through W as it is sooner than
W is packed (benchmarks/NOTES.md)."""


@inner
def in_place(columns, itemsize):
    """Whether a product may be written straight to a dense matrix: in whole panels, and not to rows
    a page apart, which fall into one set of the first-level cache.
    """
    return columns % panel_width_of(itemsize) == 0 and columns * itemsize % PAGE != 0


@inner
def taken_dense(B, F, itemsize):
    """Whether `rows_times_panels` takes W as it is: of a single column, and for few rows, of which
    packing would be the larger part; by whole panels.
    """
    few = FEW_ROWS if F * itemsize % PAGE else FEW_ROWS // 2
    return F == 1 or (few >= B and F % panel_width_of(itemsize) == 0)


@inner
def pack_wide(w, B, K, F, packed):
    """`pack`, but not of what is taken dense."""
    if not taken_dense(B, F, w.itemsize):
        pack(w, K, F, F, packed)


@inner
def rows_times_panels(a, a_at, rows, B, K, w, packed, F, a_work, c_work):
    """c_work = A·W for some of the B rows of a dense A (B, K) from a[a_at]; W (K, F), and packed
    by `pack_wide`.
    """
    width = panel_width_of(a.itemsize)
    count, c_row = -(-F // width), padded(F, a.itemsize)
    b, b_step, b_row = packed, K * width, width
    if F == 1:  # a panel would be padding but for one column: of a value, of a critic
        for m in range(rows):
            c_work[m * c_row] = dot(view(a, a_at + m * K, K), view(w, 0, K))
        return
    if taken_dense(B, F, a.itemsize):
        b, b_step, b_row = w, width, F
    a_row = K
    if K * a.itemsize % PAGE == 0:
        a_row = padded(K, a.itemsize)
        copy_rows(a, a_at, rows, K, K, a_work, a_row)
        a, a_at = a_work, 0
    multiply_panels(a, a_at, a_row, 1, rows, b, 0, b_step, b_row, K, 0, count, c_work, 0, c_row)


@spliced
def forward(x, w, bias, scale, offset, B, K, F, normed, code, eps, fast, saving,
            y, x_hat, rstd, slope, packed, a_work, c_work):  # fmt: skip
    """y (B, F), and what the products need: x̂, rstd if `normed`, f′ if there is an activation.

    Unless `saving`, every row of the latter lies on the first one: written, but not to memory.
    """
    pack_wide(w, B, K, F, packed)
    itemsize = x.itemsize
    stride, block = padded(F, itemsize), block_rows(K, F, B, itemsize)
    h = view(c_work, block * stride, F)
    one = view(c_work, (block + 1) * stride, F)
    for j in range(F):
        one[j] = like(1, one[j])
    for begin in range(0, B, block):
        rows = min(block, B - begin)
        rows_times_panels(x, begin * K, rows, B, K, w, packed, F, a_work, c_work)
        for m in range(rows):
            row = begin + m if saving else 0
            at = row * F
            z, y_row = view(c_work, m * stride, F), view(y, (begin + m) * F, F)
            for j in range(F):
                z[j] += bias[j]
            if normed == NORM_AFTER:
                activate(z, one, code, h, view(slope, at, F))
                rstd[row] = normalise(h, scale, offset, eps, fast, view(x_hat, at, F), y_row)
                continue
            result = z
            if normed:
                result = h
                rstd[row] = normalise(z, scale, offset, eps, fast, view(x_hat, at, F), h)
            if code == NO_ACTIVATION:
                for j in range(F):
                    y_row[j] = result[j]
            else:
                activate(result, one, code, y_row, view(slope, at, F))


@inner
def pulled_back(y_bar, scale, x_hat, rstd, slope, at, row, F, normed, sloped, h, u, z_bar):
    """z_bar = (∂y/∂z)ᵀ y_bar of one row, z the linear layer's output; on the way h_bar, of what
    LayerNorm gave, and γ·h_bar.

    All rows are distinct: over memory that overlaps, LLVM's loops run one number at a time.
    """
    source = view(y_bar, at, F)
    if sloped and normed != NORM_AFTER:
        bend = view(slope, at, F)
        for j in range(F):
            h[j] = source[j] * bend[j]
    else:
        for j in range(F):
            h[j] = source[j]
    if normed:
        for j in range(F):
            u[j] = h[j] * scale[j]
        normalised_jacobian(u, view(x_hat, at, F), rstd[row], z_bar)
        if normed == NORM_AFTER:
            bend = view(slope, at, F)
            for j in range(F):
                z_bar[j] *= bend[j]
    else:
        for j in range(F):
            z_bar[j] = h[j]


@inner
def back_through_linear(a, a_at, stride, rows, K, F, packed, x_bar, x_at, add, c_work):
    """x_bar = z_bar·Wᵀ for some rows, or added to it; z_bar from a[a_at], rows `stride` apart."""
    width = panel_width_of(a.itemsize)
    if not add and in_place(K, a.itemsize):
        multiply(a, a_at, stride, 1, rows, packed, 0, F, 0, K // width, x_bar, x_at, K)
        return
    c_row = padded(K, a.itemsize)
    multiply(a, a_at, stride, 1, rows, packed, 0, F, 0, -(-K // width), c_work, 0, c_row)
    for m in range(rows):
        product, goal = view(c_work, m * c_row, K), view(x_bar, x_at + m * K, K)
        if add:
            for j in range(K):
                goal[j] += product[j]
        else:
            for j in range(K):
                goal[j] = product[j]


@inner
def add_scaled(total, number, row):
    """total += number·row, rows (F,)."""
    for j in range(total.size):
        total[j] += number * row[j]


@spliced
def vjp(y_bar, w, scale, x_hat, rstd, slope, B, K, F, normed, sloped, add,
        x_bar, packed, a_work, c_work):  # fmt: skip
    """x_bar (B, K) = (∂y/∂x)ᵀ y_bar; added to what x_bar holds if `add`."""
    pack_transposed(w, K, F, packed)
    itemsize = y_bar.itemsize
    stride, block = padded(F, itemsize), block_rows(K, F, B, itemsize)
    h, u = view(a_work, block * stride, F), view(a_work, (block + 1) * stride, F)
    for begin in range(0, B, block):
        rows = min(block, B - begin)
        for m in range(rows):
            row, z_bar = begin + m, view(a_work, m * stride, F)
            pulled_back(
                y_bar, scale, x_hat, rstd, slope, row * F, row, F, normed, sloped, h, u, z_bar
            )
        back_through_linear(a_work, 0, stride, rows, K, F, packed, x_bar, begin * K, add, c_work)


@kernel
def jvp(x_dot, w, scale, x_hat, rstd, slope, B, K, F, normed, sloped,
        y_dot, packed, a_work, c_work):  # fmt: skip
    """y_dot (B, F) = (∂y/∂x) x_dot."""
    pack_wide(w, B, K, F, packed)
    itemsize = x_dot.itemsize
    stride, block = padded(F, itemsize), block_rows(K, F, B, itemsize)
    for begin in range(0, B, block):
        rows = min(block, B - begin)
        rows_times_panels(x_dot, begin * K, rows, B, K, w, packed, F, a_work, c_work)
        for m in range(rows):
            at = (begin + m) * F
            z_dot, goal = view(c_work, m * stride, F), view(y_dot, at, F)
            if normed == NORM_AFTER:
                bend = view(slope, at, F)
                for j in range(F):
                    z_dot[j] *= bend[j]
            if normed:
                normalised_jacobian(z_dot, view(x_hat, at, F), rstd[begin + m], goal)
                for j in range(F):
                    goal[j] *= scale[j]
            else:
                for j in range(F):
                    goal[j] = z_dot[j]
            if sloped and normed != NORM_AFTER:
                bend = view(slope, at, F)
                for j in range(F):
                    goal[j] *= bend[j]


@inner
def add_row(total, row):
    """total += row, rows (F,)."""
    for j in range(total.size):
        total[j] += row[j]


@inner
def add_outer_products(strips, panels, rows, K, F, w_bar, fresh, c_work):
    """w_bar (K, F) = xᵀ·z_bar over `rows` rows, or added to it unless `fresh`."""
    itemsize = w_bar.itemsize
    width = panel_width_of(itemsize)
    direct = fresh and in_place(F, itemsize)
    c_row = padded(F, itemsize)
    per_block = max(1, BLOCK_BYTES // (TILE_ROWS * rows * itemsize))
    strip_count, whole_strips = -(-K // TILE_ROWS), K // TILE_ROWS
    for begin in range(0, strip_count, per_block):
        end = min(strip_count, begin + per_block)
        for panel in range(-(-F // width)):  # outside, so that a panel is used while it is near
            for s in range(begin, end):
                at = s * rows * TILE_ROWS
                if direct and s < whole_strips:
                    multiply(
                        strips, at, 1, TILE_ROWS, TILE_ROWS, panels, 0, rows,
                        panel, panel + 1, w_bar, s * TILE_ROWS * F, F,
                    )  # fmt: skip
                else:
                    multiply(
                        strips, at, 1, TILE_ROWS, TILE_ROWS, panels, 0, rows,
                        panel, panel + 1, c_work, (s - begin) * TILE_ROWS * c_row, c_row,
                    )  # fmt: skip
        for k in range(begin * TILE_ROWS, min(K, end * TILE_ROWS)):
            if direct and k < whole_strips * TILE_ROWS:
                continue
            product = view(c_work, (k - begin * TILE_ROWS) * c_row, F)
            goal = view(w_bar, k * F, F)
            if fresh:
                for j in range(F):
                    goal[j] = product[j]
            else:
                add_row(goal, product)


@spliced
def vjp_params(y_bar, x, w, scale, x_hat, rstd, slope, B, K, F, normed, sloped, wanted, add,
               x_bar, w_bar, bias_bar, scale_bar, offset_bar,
               packed, a_work, c_work, strips, panels):  # fmt: skip
    """Cotangents of kernel, bias, γ, β (summed over rows), and of x if `wanted`, as in `vjp`."""
    if wanted:
        pack_transposed(w, K, F, packed)
    itemsize = y_bar.itemsize
    stride, block = padded(F, itemsize), block_rows(K, F, B, itemsize)
    h, u = view(a_work, block * stride, F), view(a_work, (block + 1) * stride, F)
    for j in range(F):
        bias_bar[j] = scale_bar[j] = offset_bar[j] = like(0, h[0])
    if F == 1:
        for k in range(K):
            w_bar[k] = like(0, h[0])
    for chunk in range(0, B, CHUNK):
        chunk_rows = min(CHUNK, B - chunk)
        for begin in range(chunk, chunk + chunk_rows, block):
            rows = min(block, chunk + chunk_rows - begin)
            for m in range(rows):
                row, z_bar = begin + m, view(a_work, m * stride, F)
                at = row * F
                pulled_back(
                    y_bar, scale, x_hat, rstd, slope, at, row, F, normed, sloped, h, u, z_bar
                )
                add_row(bias_bar, z_bar)
                if normed:
                    add_row(offset_bar, h)
                    x_hat_row = view(x_hat, at, F)
                    for j in range(F):
                        scale_bar[j] += h[j] * x_hat_row[j]
            if wanted:
                back_through_linear(
                    a_work, 0, stride, rows, K, F, packed, x_bar, begin * K, add, c_work
                )
            if F == 1:
                for m in range(rows):
                    add_scaled(w_bar, a_work[m * stride], view(x, (begin + m) * K, K))
            else:
                pack_rows(a_work, rows, F, stride, panels, begin - chunk, chunk_rows)
        if F > 1:
            pack_strips(x, chunk * K, chunk_rows, K, strips)
            add_outer_products(strips, panels, chunk_rows, K, F, w_bar, chunk == 0, c_work)
