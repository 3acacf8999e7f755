"""The networks' parameters as the interpreter reads them: one flat array and a table of offsets.

Two identities are used here. The first layer is linear, so its input [s, a, emb(t)] splits: s's
share is computed once for a chain and once for all of its best-of-N draws, and emb(t)'s, which the
time alone decides, is a constant of the sampler. And the vjp in the action needs the action's rows
of the first kernel alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.compiled.layout import Sizes
from qgf_ref.compiled.program import CRITIC, FIELD
from qgf_ref.compiled.record import NotRecordable
from qgf_ref.kernels.gemm import packed
from qgf_ref.kernels.rows import CODES
from qgf_ref.kernels.simd import VECTOR_BYTES, panel_width
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.time_embedding import time_embedding

LAYER_COLUMNS = 10
IN, OUT, KERNEL, TRANSPOSE, BIAS, SCALE, OFFSET, NORM, PRE, TIMES = range(LAYER_COLUMNS)
"""Columns of the layer table; offsets are in elements of the flat array.

IN, OUT  widths (IN of a first layer: D)      KERNEL, TRANSPOSE  of the products with W and Wᵀ
BIAS     of a first layer: within its PRE     NORM               1 if LayerNorm follows
PRE      first layers: column of this layer in the observations' share
TIMES    first layers: emb(t)·W_emb for each of the program's times, (times, OUT)
"""
NETWORK_COLUMNS = 5
FIRST, DEPTH, MEMBERS, ACTIVATION, FAST = range(NETWORK_COLUMNS)
"""Columns of the network table: first row in the layer table, layers, members, activation's code,
1 if the variance is the fast one. Member e's layer l is in row FIRST + e·DEPTH + l.
"""


@dataclass(frozen=True)
class Weights:
    """flat (1-D) and the tables; eps (2,) of each network's LayerNorm.

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


def gather(field: MLPVelocity, critic: MLPCritic, times: tuple[float, ...]) -> Weights:
    """Pack both networks, with time constants for `times`.

    Raises NotRecordable.
    """
    dtype = field.dtype
    if critic.params.layers[0].kernel.dtype != dtype:
        raise NotRecordable("networks of different dtypes")
    width = panel_width(dtype.itemsize)
    O, D = field.obs_dim, field.action_dim
    builder = _Builder(dtype)
    tables: list[list[int]] = []
    observed: list[tuple[Array, Array]] = []
    networks = np.zeros((2, NETWORK_COLUMNS), np.int64)
    pre = 0
    for network, params, options in (
        (FIELD, field.params, field.options),
        (CRITIC, critic.params, critic.options),
    ):
        _require_plain(params, O)
        members = params.ensemble or 1
        networks[network] = (
            len(tables),
            len(params.layers),
            members,
            CODES[options.activation],
            int(options.variance == "fast"),
        )
        for e in range(members):
            member = params if params.ensemble is None else params.map(lambda a, e=e: a[e])
            for l, layer in enumerate(member.layers):
                kernel = layer.kernel
                scalar = network == CRITIC and l == len(member.layers) - 1
                row = builder.layer(layer, kernel[O : O + D] if l == 0 else kernel, scalar)
                if l == 0:
                    row[PRE] = pre
                    row[TIMES] = builder.add(_time_constants(field, kernel, times, O + D))
                    observed.append((kernel[:O], layer.bias))
                    pre += -(-kernel.shape[1] // width) * width
                tables.append(row)
    wide = np.zeros((O, pre), dtype)
    bias = np.zeros(pre, dtype)
    for (kernel, offset), row in zip(observed, (r for r in tables if r[PRE] >= 0)):
        wide[:, row[PRE] : row[PRE] + row[OUT]] = kernel
        bias[row[PRE] : row[PRE] + row[OUT]] = offset
    pre_kernel, pre_bias = builder.add(packed(wide)), builder.add(bias)
    hidden = tuple(
        tuple(int(x.kernel.shape[-1]) for x in params.layers[:-1])
        for params in (field.params, critic.params)
    )
    widest = max(D, *hidden[0], *hidden[1])
    line = VECTOR_BYTES // dtype.itemsize
    sizes = Sizes(
        action=-(-D // width) * width,
        members=critic.params.ensemble or 1,
        hidden=(hidden[0], hidden[1]),
        # rows a multiple of 4096 bytes apart would share one cache set
        wide=-(-widest // width) * width + line,
        pre=pre,
    )
    eps = np.array([field.options.layer_norm_eps, critic.options.layer_norm_eps])
    return Weights(
        builder.flat(), np.array(tables, np.int64), networks, eps, pre_kernel, pre_bias, O, sizes
    )


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
        row[NORM] = int(layer.scale is not None)
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


def _time_constants(
    field: MLPVelocity, kernel: Array, times: tuple[float, ...], first: int
) -> Array:
    """emb(t)·W_emb for every time, (times, F); zeros for the critic, which has no time."""
    if first >= len(kernel) or not times:
        return np.zeros((max(len(times), 1), kernel.shape[1]), kernel.dtype)
    embedding, _ = time_embedding(np.array(times), len(kernel) - first, field.embedding)
    rounded = embedding.astype(kernel.dtype).astype(np.float64)
    return (rounded @ kernel[first:].astype(np.float64)).astype(kernel.dtype)


def _require_plain(params: MLPParams, obs_dim: int) -> None:
    if not obs_dim or len(params.layers) < 2 or params.layers[-1].scale is not None:
        raise NotRecordable(
            "a network without observations or hidden layers, or with LayerNorm at its end"
        )
