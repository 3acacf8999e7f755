"""The primitives of `qgf_ref.ops` on CuPy arrays: what NumPy's functions do not do for them.

Each takes the device first. Primitives that are not here work on CuPy arrays as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ref.backends.cupy.device import Device
from qgf_ref.backends.cupy.layout import Space
from qgf_ref.backends.cupy.structs import LEAF, arguments
from qgf_ref.ops import learning
from qgf_ref.ops.ensemble import EnsembleCache, ensemble_reduce
from qgf_ref.ops.lookup import LookupCache, lookup, lookup_vjp_params
from qgf_ref.ops.structure import on_host, per_row, zeros
from qgf_ref.ops.time_embedding import (
    DIM,
    TIME_SCALE,
    TimeEmbeddingCache,
    angular_frequencies,
    time_embedding,
)

THREADS, MOST_BLOCKS = 256, 1024
KEY = "gelu"
"""Kernels here do not depend on the activation."""


def adam_steps(
    here: Device, leaves: Sequence[tuple[Any, ...]], count: int, learning_rate: float,
    eps: float = learning.EPS, eps_root: float = 0.0,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """(θ, m, s) of every leaf (θ, ∂θ, m, s): `qgf_ref.ops.learning.adam_step` of all at once."""
    b1, b2 = learning.BETA1, learning.BETA2
    scales = b1, b2, 1 / (1 - b1**count), 1 / (1 - b2**count), learning_rate, eps, eps_root
    return list(zip(*_on_leaves(here, "adam_steps", leaves, scales, 3), strict=True))


def moving_averages(here: Device, pairs: Sequence[tuple[Any, Any]], tau: float) -> list[Any]:
    """τ·online + (1 − τ)·target of every pair (target, online)."""
    return _on_leaves(here, "moving_averages", pairs, (tau,), 1)[0]


def _on_leaves(
    here: Device, name: str, leaves: Sequence[tuple[Any, ...]], numbers: tuple[float, ...],
    outputs: int,
) -> list[list[Any]]:  # fmt: skip
    """A kernel on all arrays, of one or several parameter sets; for each output, new arrays."""
    table = _Leaves(here, leaves)
    new = [here.empty(table.size, table.dtype) for _ in range(outputs)]
    table.launch(name, (*numbers, *(array.data.ptr for array in new)))
    return [table.views(array) for array in new]


class _Leaves:
    """The table of arrays of which a kernel takes every number: each leaf θ, or θ, ∂θ, m, s."""

    def __init__(self, here: Device, leaves: Sequence[tuple[Any, ...]]) -> None:
        self.device, self.dtype = here, leaves[0][0].dtype
        space = Space(self.dtype.itemsize)
        self.starts = [space.take(int(leaf[0].size)) for leaf in leaves]
        self.size = space.size
        self.kept = [[here.array(array, self.dtype) for array in leaf] for leaf in leaves]
        table = np.zeros((len(leaves), len(LEAF.names or ())), np.int64)
        for row, start, arrays in zip(table, self.starts, self.kept, strict=True):
            row[: len(arrays) + 2] = start, arrays[0].size, *(a.data.ptr for a in arrays)
        self.uploaded = here.array(table)

    @property
    def blocks(self) -> int:
        return min(MOST_BLOCKS, -(-self.size // THREADS))

    def launch(self, name: str, args: tuple[Any, ...], shared: int = 0) -> None:
        """Start a kernel; args: those after the table, its rows and the numbers in all."""
        args = self.uploaded.data.ptr, len(self.starts), self.size, *args
        key = self.dtype.name, KEY
        self.device.launch(key, name, (self.blocks,), THREADS, arguments(args), shared)

    def views(self, flat: Any) -> list[Any]:
        """Of an array of all numbers, one shaped like each θ."""
        shapes = [(i, leaf[0]) for i, leaf in zip(self.starts, self.kept, strict=True)]
        return [flat[i : i + like.size].reshape(like.shape) for i, like in shapes]


def _sum_of_squares(here: Device, *arrays: Any) -> float:
    table = _Leaves(here, [(array,) for array in arrays])
    partial, total = here.empty(table.blocks, np.float64), here.empty(1, np.float64)
    table.launch("sum_of_squares", (partial.data.ptr,), THREADS * 8)
    last = partial.data.ptr, table.blocks, 1.0, total.data.ptr
    here.launch((table.dtype.name, KEY), "mean_of", (1,), 32, arguments(last))
    return float(total.get()[0])


def _all_scaled(here: Device, scale: float, *arrays: Any) -> tuple[Any, ...]:
    return tuple(_on_leaves(here, "all_scaled", [(a,) for a in arrays], (float(scale),), 1)[0])


def _loss(here: Device, name: str, like: Any, args: tuple[Any, ...]) -> tuple[float, Any]:
    """The mean that a kernel gives, and the cotangent."""
    size = int(like.size)
    bar = here.empty(like.shape, like.dtype)
    blocks = min(MOST_BLOCKS, -(-size // THREADS))
    partial, mean = here.empty(blocks, np.float64), here.empty(1, np.float64)
    key, bytes_ = (like.dtype.name, KEY), THREADS * 8
    args = *args, bar.data.ptr, partial.data.ptr
    here.launch(key, name, (blocks,), THREADS, arguments(args), bytes_)
    last = partial.data.ptr, blocks, float(size), mean.data.ptr
    here.launch(key, "mean_of", (1,), 32, arguments(last))
    return float(mean.get()[0]), bar


def _squared_error(here: Device, y: Any, target: Any, weight: Any = 1) -> tuple[float, Any]:
    y, target = here.array(y), here.array(target, y.dtype)
    if y.shape[y.ndim - target.ndim :] != target.shape:
        return learning.squared_error(y, target, weight)
    inner, per_weight, factor, at = int(target.size), 1, 1.0, 0
    if here.is_own(weight) or isinstance(weight, np.ndarray):
        weight = here.array(weight, y.dtype)
        per_weight = inner // int(weight.size)  # (B, 1) beside (B, D)
        if weight.shape not in (target.shape, (*target.shape[:-1], 1)):
            return learning.squared_error(y, target, weight)
        at = weight.data.ptr
    else:
        factor = float(weight)
    args = y.data.ptr, target.data.ptr, at, factor, int(y.size), inner, per_weight
    return _loss(here, "squared_error", y, args)


def _expectile_error(
    here: Device, q: Any, v: Any, valid: Any, expectile: float
) -> tuple[float, Any]:
    q, v, valid = here.array(q, v.dtype), here.array(v), here.array(valid, v.dtype)
    args = q.data.ptr, v.data.ptr, valid.data.ptr, float(expectile), int(v.size)
    return _loss(here, "expectile_error", v, args)


def _time_embedding(
    here: Device, t: Any, dim: int = DIM, precision: str = "exact"
) -> tuple[Any, TimeEmbeddingCache]:
    frequencies = angular_frequencies(dim // 2, precision)  # type: ignore[arg-type]
    t, rows = here.array(t), len(t)
    embedding = here.empty((rows, dim), t.dtype)
    table = here.array(frequencies.astype(np.float64))
    args = (
        t.data.ptr, rows, dim // 2, table.data.ptr, float(TIME_SCALE), int(precision == "exact"),
        embedding.data.ptr,
    )  # fmt: skip
    here.each((t.dtype.name, KEY), "embed_times", rows * (dim // 2), arguments(args))
    return embedding, TimeEmbeddingCache(TIME_SCALE * frequencies, embedding)


def _per_row(here: Device, value: Any, like: Any) -> Any:
    return here.xp.broadcast_to(here.array(value, like.dtype), like.shape[:1])


def _zeros(here: Device, like: Any, columns: int | None = None) -> Any:
    shape = like.shape if columns is None else (*like.shape[:-1], columns)
    return here.xp.zeros(shape, like.dtype)


def _ensemble_reduce(here: Device, q: Any, aggregation: str = "min") -> tuple[Any, EnsembleCache]:
    if aggregation == "mean":
        shares = here.array(np.full(q.shape, 1 / q.shape[0], q.dtype))
        return q.mean(axis=0), EnsembleCache(shares)
    if aggregation != "min":
        return ensemble_reduce(q, aggregation)
    least = q.min(axis=0)
    attains = (q == least).astype(q.dtype)
    return least, EnsembleCache(attains / attains.sum(axis=0))


def _lookup(here: Device, table: Any, index: Any, like: Any) -> tuple[Any, LookupCache]:
    chosen = here.xp.broadcast_to(here.array(index), like.shape[:1])
    return here.array(table)[chosen], LookupCache(chosen, len(table))


def _lookup_vjp_params(here: Device, y_bar: Any, cache: LookupCache) -> Any:
    rows = [
        (y_bar * (cache.chosen == n).astype(y_bar.dtype)[:, None]).sum(axis=0, keepdims=True)
        for n in range(cache.rows)
    ]
    return here.xp.concatenate(rows, axis=0)


SUBSTITUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    learning.squared_error: _squared_error,
    learning.sum_of_squares: _sum_of_squares,
    learning.all_scaled: _all_scaled,
    learning.expectile_error: _expectile_error,
    time_embedding: _time_embedding,
    per_row: _per_row,
    zeros: _zeros,
    ensemble_reduce: _ensemble_reduce,
    lookup: _lookup,
    lookup_vjp_params: _lookup_vjp_params,
    on_host: lambda here, x: x.get(),
}
"""Primitive → its equal on the device, taking that first."""
