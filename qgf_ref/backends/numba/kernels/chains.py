"""A whole network in one call: the dense blocks of `blocks`, one layer after another.

Python passes a table of integers, a row for each layer: sizes, and the addresses of the arrays. The
members of an ensemble lie one after another in each array; they may share the first layer's input.
`example` is any array of the dtype. The columns are named below; `network` fills them.
"""

from __future__ import annotations

from qgf_ref.backends.numba.kernels import blocks
from qgf_ref.backends.numba.kernels.cache import kernel
from qgf_ref.backends.numba.kernels.simd import memory_at

IN, OUT, ORDER, CODE, SHARED, X, W, BIAS, SCALE, OFFSET, Y, X_HAT, RSTD, SLOPE = range(14)
"""Of a layer's forward: its widths, `qgf_ref.ops.dense.ORDERS`, the activation's number, whether
members share x, and where what lies."""
Y_BAR, X_BAR, W_BAR, BIAS_BAR, SCALE_BAR, OFFSET_BAR, WANTED = range(14, 21)
"""Of its products, besides."""
COLUMNS = 21


@kernel
def forward(table, E, B, eps, fast, saving, packed, a_work, c_work):
    """y of every layer, each the next one's x, and, if `saving`, what the products need."""
    size = packed.itemsize
    for i in range(table.shape[0]):
        K, F = table[i, IN], table[i, OUT]
        normed, code = table[i, ORDER], table[i, CODE]
        rows = B if saving else 1
        kept, bent = (rows if normed else 0), (rows if code >= 0 else 0)
        for e in range(E):
            x_member = 0 if table[i, SHARED] else e
            blocks.forward(
                memory_at(table[i, X] + x_member * B * K * size, B * K, packed),
                memory_at(table[i, W] + e * K * F * size, K * F, packed),
                memory_at(table[i, BIAS] + e * F * size, F, packed),
                memory_at(table[i, SCALE] + e * F * size, F, packed),
                memory_at(table[i, OFFSET] + e * F * size, F, packed),
                B, K, F, normed, code, eps, fast, saving,
                memory_at(table[i, Y] + e * B * F * size, B * F, packed),
                memory_at(table[i, X_HAT] + e * kept * F * size, kept * F, packed),
                memory_at(table[i, RSTD] + e * kept * size, kept, packed),
                memory_at(table[i, SLOPE] + e * bent * F * size, bent * F, packed),
                packed, a_work, c_work,
            )  # fmt: skip


@kernel
def vjp(table, E, B, packed, a_work, c_work):
    """x_bar of every layer, from the last one to the first; each is the y_bar of the one before."""
    size = packed.itemsize
    for back in range(table.shape[0]):
        i = table.shape[0] - 1 - back
        K, F = table[i, IN], table[i, OUT]
        normed, sloped = table[i, ORDER], table[i, CODE] >= 0
        kept, bent = (B if normed else 0), (B if sloped else 0)
        for e in range(E):
            shared = table[i, SHARED] != 0
            blocks.vjp(
                memory_at(table[i, Y_BAR] + e * B * F * size, B * F, packed),
                memory_at(table[i, W] + e * K * F * size, K * F, packed),
                memory_at(table[i, SCALE] + e * F * size, F, packed),
                memory_at(table[i, X_HAT] + e * kept * F * size, kept * F, packed),
                memory_at(table[i, RSTD] + e * kept * size, kept, packed),
                memory_at(table[i, SLOPE] + e * bent * F * size, bent * F, packed),
                B, K, F, normed, sloped, shared and e > 0,
                memory_at(table[i, X_BAR] + (0 if shared else e) * B * K * size, B * K, packed),
                packed, a_work, c_work,
            )  # fmt: skip


@kernel
def vjp_params(table, E, B, packed, a_work, c_work, strips, panels):
    """The cotangents of every layer's parameters, from the last layer to the first; each layer's
    x_bar is the y_bar of the one before, and of the first it is left out unless `WANTED`.
    """
    size = packed.itemsize
    for back in range(table.shape[0]):
        i = table.shape[0] - 1 - back
        K, F = table[i, IN], table[i, OUT]
        normed, sloped, wanted = table[i, ORDER], table[i, CODE] >= 0, table[i, WANTED] != 0
        kept, bent = (B if normed else 0), (B if sloped else 0)
        for e in range(E):
            shared = table[i, SHARED] != 0
            x_at = (0 if shared else e) * B * K * size
            blocks.vjp_params(
                memory_at(table[i, Y_BAR] + e * B * F * size, B * F, packed),
                memory_at(table[i, X] + x_at, B * K, packed),
                memory_at(table[i, W] + e * K * F * size, K * F, packed),
                memory_at(table[i, SCALE] + e * F * size, F, packed),
                memory_at(table[i, X_HAT] + e * kept * F * size, kept * F, packed),
                memory_at(table[i, RSTD] + e * kept * size, kept, packed),
                memory_at(table[i, SLOPE] + e * bent * F * size, bent * F, packed),
                B, K, F, normed, sloped, wanted, shared and e > 0,
                memory_at(table[i, X_BAR] + x_at, B * K, packed),
                memory_at(table[i, W_BAR] + e * K * F * size, K * F, packed),
                memory_at(table[i, BIAS_BAR] + e * F * size, F, packed),
                memory_at(table[i, SCALE_BAR] + e * F * size, F, packed),
                memory_at(table[i, OFFSET_BAR] + e * F * size, F, packed),
                packed, a_work, c_work, strips, panels,
            )  # fmt: skip
