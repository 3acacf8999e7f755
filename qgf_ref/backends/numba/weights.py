"""The networks' parameters as the interpreter reads them: one flat array and a table of offsets.

Two identities are used here. The first layer is linear, so its input [s, a, emb(t)] splits: s's
share is computed once for a chain and once for all of its best-of-N draws, and emb(t)'s, which the
time alone decides, is a constant of the sampler. And the vjp in the action needs the action's rows
of the first kernel alone.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels.gemm import packed
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.backends.numba.kernels.simd import VECTOR_BYTES, panel_width
from qgf_ref.backends.numba.layout import Sizes
from qgf_ref.backends.program.networks import input_columns, require_plain
from qgf_ref.backends.program.program import FIELD
from qgf_ref.nets.mlp import LayerParams
from qgf_ref.ops.dense import NORM_AFTER, order_of

LAYER_COLUMNS = 12
(
    IN, OUT, KERNEL, TRANSPOSE, BIAS, SCALE, OFFSET, NORM, PRE, TIMED, RESIDUAL, SAVED,
) = range(LAYER_COLUMNS)  # fmt: skip
"""Columns of the layer table; offsets are in elements of the flat array.

IN, OUT  widths (IN of a first layer: D)      KERNEL, TRANSPOSE  of the products with W and Wᵀ
BIAS     of a first layer: within its PRE     NORM               of `ops.dense.ORDERS`
PRE      first layers: column of this layer in the observations' share
TIMED    first layers: the rows of the kernel for the embedded time, not packed; −1 without
RESIDUAL 1 if the layer's input is added to its output
SAVED    numbers of each row that a forward keeps for the products, see `sweeps`
"""
NETWORK_COLUMNS = 6
FIRST_LAYER, DEPTH, MEMBERS, ACTIVATION, FAST, SCALAR_OUTPUT = range(NETWORK_COLUMNS)
"""Columns of the network table: first row in the layer table, layers, members, activation's code,
1 if the variance is the fast one, 1 if the output is one number. Member e's layer l is in row
FIRST_LAYER + e·DEPTH + l.
"""


@dataclass(frozen=True)
class Weights:
    """flat (1-D) and the tables; eps (networks,) of each network's LayerNorm.

    pre_kernel, pre_bias  offsets of the observations' share of all first layers together: a
    packed kernel (O, pre) and its bias (pre,).
    """

    flat: Array
    layers: Array
    networks: Array
    eps: Array
    pre_kernel: int
    pre_bias: int
    obs_dim: int
    sizes: Sizes


def gather(networks: Sequence[Any], used: Set[int]) -> Weights:
    """Pack the networks of a program, those that it uses. Raises NotRecordable."""
    field = networks[FIELD]
    O, D, dtype = field.obs_dim, field.action_dim, field.dtype
    width = panel_width(dtype.itemsize)
    builder = _Builder(dtype)
    tables: list[list[int]] = []
    observed: list[tuple[Array, Array]] = []
    table = np.zeros((len(networks), NETWORK_COLUMNS), np.int64)
    members, hidden = [1] * len(networks), [()] * len(networks)  # type: list[int], list[Any]
    pre = 0
    for number in sorted(used):
        network = networks[number]
        require_plain(network, O, D, dtype)
        params, options = network.params, network.options
        columns = input_columns(network, O, D)
        members[number] = params.ensemble or 1
        hidden[number] = tuple(int(x.kernel.shape[-1]) for x in params.layers[:-1])
        table[number] = (
            len(tables),
            len(params.layers),
            members[number],
            CODES[options.activation],
            int(options.variance == "fast"),
            int(network.scalar),
        )
        for e in range(members[number]):
            member = params if params.ensemble is None else params.map(lambda a, e=e: a[e])
            for l, layer in enumerate(member.layers):
                kernel = layer.kernel
                scalar = network.scalar and l == len(member.layers) - 1
                row = builder.layer(
                    layer, kernel[columns[network.active]] if l == 0 else kernel, scalar
                )
                hidden_layer = l < len(member.layers) - 1
                row[NORM] = order_of(
                    layer.scale is not None, hidden_layer, options.norm_after_activation
                )
                row[RESIDUAL] = int(options.adds_input(params, l))
                row[SAVED] = (3 if row[NORM] == NORM_AFTER else 2) * row[OUT] + 1
                if l == 0:
                    row[PRE] = pre
                    observed.append((kernel[columns["obs"]], layer.bias))
                    pre += -(-kernel.shape[1] // width) * width
                    if "time" in columns:
                        row[TIMED] = builder.add(kernel[columns["time"]])
                tables.append(row)
    wide = np.zeros((O, pre), dtype)
    bias = np.zeros(pre, dtype)
    for (kernel, offset), row in zip(observed, (r for r in tables if r[PRE] >= 0)):
        wide[:, row[PRE] : row[PRE] + row[OUT]] = kernel
        bias[row[PRE] : row[PRE] + row[OUT]] = offset
    pre_kernel, pre_bias = builder.add(packed(wide)), builder.add(bias)
    widest = max(D, *(width for widths in hidden for width in widths))
    line = VECTOR_BYTES // dtype.itemsize
    # rows a multiple of 4096 bytes apart would share one cache set
    stride = -(-widest // width) * width + line
    layers = np.array(tables, np.int64)
    saved = [
        int(layers[first : first + max(depth - 1, 0), SAVED].sum())
        for first, depth in table[:, [FIRST_LAYER, DEPTH]]
    ]
    residual = bool(layers[:, RESIDUAL].any())
    sizes = Sizes(D, tuple(members), tuple(hidden), tuple(saved), stride, pre, residual)
    eps = np.array([network.options.layer_norm_eps for network in networks])
    return Weights(builder.flat(), layers, table, eps, pre_kernel, pre_bias, O, sizes)


class _Builder:
    """Appends arrays to the flat one, each on a cache line of its own."""

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self.dtype = dtype
        self.line = VECTOR_BYTES // dtype.itemsize
        self.parts: list[Array] = []
        self.size = 0

    def add(self, array: Array) -> int:
        at = self.size
        filled = -(-array.size // self.line) * self.line
        self.parts.append(np.zeros(filled, self.dtype))
        self.parts[-1][: array.size] = array.ravel()
        self.size += filled
        return at

    def layer(self, layer: LayerParams, kernel: Array, scalar: bool) -> list[int]:
        """A row of the layer table. scalar: the one output is a dot product, no panel."""
        row = [-1] * LAYER_COLUMNS
        row[IN], row[OUT] = kernel.shape
        if scalar:
            row[KERNEL] = row[TRANSPOSE] = self.add(kernel)
        else:
            row[KERNEL], row[TRANSPOSE] = self.add(packed(kernel)), self.add(packed(kernel.T))
        row[BIAS] = self.add(layer.bias)
        scale = np.ones_like(layer.bias) if layer.scale is None else layer.scale
        offset = np.zeros_like(layer.bias) if layer.offset is None else layer.offset
        row[SCALE], row[OFFSET] = self.add(scale), self.add(offset)
        return row

    def flat(self) -> Array:
        flat = _aligned(self.size, self.dtype)
        np.concatenate(self.parts, out=flat)
        return flat


def _aligned(size: int, dtype: np.dtype[np.generic]) -> Array:
    """An empty 1-D array that starts on a cache line."""
    raw = np.empty(size * dtype.itemsize + VECTOR_BYTES, np.uint8)
    start = -raw.ctypes.data % VECTOR_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)
