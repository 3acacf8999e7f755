"""The networks' parameters as the interpreter reads them: one flat array and a table of offsets.

Two identities are used here. The first layer is linear, so its input [s, a, emb(t)] splits: s's
share is computed once for a chain and once for all of its best-of-N draws, and emb(t)'s, which the
time alone decides, is a constant of the sampler. And the vjp in the action needs the action's rows
of the first kernel alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.numba.kernels.gemm import packed
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.backends.numba.kernels.simd import VECTOR_BYTES, panel_width
from qgf_ref.backends.numba.layout import Sizes
from qgf_ref.backends.program.program import CRITIC, FIELD
from qgf_ref.backends.program.record import NotRecordable
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import LayerParams
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.time_embedding import time_embedding

LAYER_COLUMNS = 9
IN, OUT, KERNEL, TRANSPOSE, BIAS, SCALE, OFFSET, NORM, PRE = range(LAYER_COLUMNS)
"""Columns of the layer table; offsets are in elements of the flat array.

IN, OUT  widths (IN of a first layer: D)      KERNEL, TRANSPOSE  of the products with W and Wᵀ
BIAS     of a first layer: within its PRE     NORM               1 if LayerNorm follows
PRE      first layers: column of this layer in the observations' share
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


def gather(field: MLPVelocity, critic: MLPCritic) -> Weights:
    """Pack both networks.

    Raises NotRecordable.
    """
    _require_plain(field, critic)
    dtype = field.dtype
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
        action=D,
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


def time_constants(field: MLPVelocity, times: tuple[float, ...]) -> Array:
    """emb(t)·W_emb of the field's first layer for every time, (times · F,), flat.

    Like a linear layer's input, the embedding is rounded to the kernel's dtype; the product is not
    rounded before its end.
    """
    kernel = field.params.layers[0].kernel
    weight = kernel[field.obs_dim + field.action_dim :]
    embedding, _ = time_embedding(np.array(times), len(weight), field.embedding)
    rounded = embedding.astype(kernel.dtype).astype(np.float64)
    return (rounded @ weight.astype(np.float64)).astype(kernel.dtype).ravel()


def _require_plain(field: MLPVelocity, critic: MLPCritic) -> None:
    """Raise NotRecordable unless the interpreter's picture of the networks is the right one."""
    O, D = field.obs_dim, field.action_dim
    v, q = field.params, critic.params
    ones = {array.dtype for params in (v, q) for array in params.arrays()}
    if len(ones) > 1 or field.dtype.name not in REAL_DTYPES:
        raise NotRecordable("networks of several dtypes, or neither float32 nor float64")
    if (
        v.ensemble is not None
        or q.ensemble is None
        or (q.in_features, q.out_features) != (O + D, 1)
    ):
        raise NotRecordable("an ensemble of policies, or a critic that is not E times (s, a) → 1")
    for params, options in ((v, field.options), (q, critic.options)):
        if O < 1 or len(params.layers) < 2 or params.layers[-1].scale is not None:
            raise NotRecordable(
                "a network without observations or hidden layers, or with LayerNorm at its end"
            )
        if options.activation not in CODES or options.variance not in ("fast", "two_pass"):
            raise NotRecordable("an activation or a variance that does not exist")
        if not all(np.isfinite(array).all() for array in params.arrays()):
            raise NotRecordable("parameters that are not finite")
