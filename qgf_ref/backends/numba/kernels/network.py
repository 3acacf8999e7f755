"""A whole network's forward, and its parameters' cotangents, in one compiled call each.

Between two layers Python would take as long as a fifth of a product of 256×256×256. What depends on
shapes alone is worked out once and kept as a plan; a call fills in where the arrays lie. The caches
are those of the single blocks (`fused.CompiledCache`), so that every other product works on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import blocks, chains
from qgf_ref.backends.numba.kernels.learning import DTYPES
from qgf_ref.backends.numba.kernels.memory import address, empty, layout, pieces, scratch
from qgf_ref.backends.numba.kernels.packing import buffer_sizes
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.ops.dense import DenseParts, DenseRule, order_of

Shape = tuple[int, ...]


class CompiledCache(NamedTuple):
    """What the compiled block's forward saved; arrays of no elements where it has no such part.

    x (B, I) or (E, B, I), kernel, scale as given; x_hat and slope (E, B, F), rstd (E, B). E is 1
    without an ensemble. The rule is what second derivatives need besides.
    """

    x: Array
    parts: DenseParts
    x_hat: Array
    rstd: Array
    slope: Array
    rule: DenseRule


class Plan(NamedTuple):
    """What a network's call takes from shapes alone.

    table    of `chains`, sizes filled in
    shapes   of what is made, and `offsets`, `bytes` where (see `memory.layout`)
    scratch  elements of each buffer
    """

    members: int
    rows: int
    table: Array
    shapes: list[Shape]
    offsets: list[int]
    bytes: int
    scratch: dict[str, int]


def forward(
    x: Array, layers: Sequence[DenseParts], rules: Sequence[DenseRule], saving: bool = True
) -> tuple[Array, tuple[CompiledCache | None, ...]] | None:
    """y (B, F), or (E, B, F) of an ensemble, and what each block saved, None unless `saving`.

    None of what the single blocks shall do: arrays of several dtypes, of none of `DTYPES`, that are
    not contiguous, and shapes that do not fit.
    """
    dtype, first = x.dtype, rules[0]
    given = [a for parts in layers for a in parts if a is not None]
    if dtype not in DTYPES or not x.flags.c_contiguous:
        return None
    if any(a.dtype != dtype or not a.flags.c_contiguous for a in given):
        return None
    if any(rule[1:] != first[1:] or rule.activation not in (None, *CODES) for rule in rules):
        return None
    plan = _forward_plan(x.shape, dtype, tuple(_shapes(layers)), tuple(rules), saving)
    if plan is None:
        return None
    whole, made = pieces(plan.shapes, plan.offsets, plan.bytes, dtype)
    table, base = plan.table.copy(), address(whole)
    table[:, chains.Y : chains.SLOPE + 1] += base
    table[0, chains.X] = address(x)
    table[1:, chains.X] = table[:-1, chains.Y]
    table[:, chains.W : chains.OFFSET + 1] = _addresses(layers)
    fast = first.variance == "fast"
    eps = first.layer_norm_eps
    buffers = scratch(plan.scratch, dtype)
    chains.forward(table, plan.members, plan.rows, eps, fast, saving, *buffers)
    if not saving:
        y = made[-4]
        return (y if layers[-1].kernel.ndim == 3 else y[0]), (None,) * len(layers)
    caches = []
    for i, (parts, rule) in enumerate(zip(layers, rules, strict=True)):
        y, x_hat, rstd, slope = made[4 * i : 4 * i + 4]
        caches.append(CompiledCache(x, parts, x_hat, rstd, slope, rule))
        x = y if parts.kernel.ndim == 3 else y[0]
    return x, tuple(caches)


def vjp_params(
    y_bar: Array, caches: Sequence[Any], input_bar: bool
) -> tuple[Array | None, list[DenseParts]] | None:
    """The cotangents of the input, or None unless it is asked for, and of each block's parameters.

    None where a cache is not this module's or `fused`'s, or y_bar is complex.
    """
    if np.iscomplexobj(y_bar) or not all(isinstance(cache, CompiledCache) for cache in caches):
        return None
    x = caches[0].x
    layers = [cache.parts for cache in caches]
    rules = tuple(cache.rule for cache in caches)
    plan = _vjp_plan(x.shape, x.dtype, tuple(_shapes(layers)), rules)
    out = (plan.members, plan.rows, layers[-1].kernel.shape[-1])
    if y_bar.size != np.prod(out):  # one for all members
        y_bar = np.broadcast_to(y_bar, out)
    y_bar = np.ascontiguousarray(y_bar, x.dtype)
    whole, made = pieces(plan.shapes, plan.offsets, plan.bytes, x.dtype)
    x_bar = empty(x.shape, x.dtype) if input_bar else None
    table, base = plan.table.copy(), address(whole)
    table[:, chains.W_BAR : chains.OFFSET_BAR + 1] += base
    buffers = scratch(plan.scratch, x.dtype)
    between = [address(buffer) for buffer in buffers[-2:]]
    table[:, chains.W : chains.OFFSET + 1] = _addresses(layers)
    for i, cache in enumerate(caches):
        last = i == len(caches) - 1
        table[i, chains.X] = address(cache.x)
        table[i, chains.X_HAT : chains.SLOPE + 1] = [address(a) for a in cache[2:5]]
        table[i, chains.Y_BAR] = address(y_bar) if last else between[(i + 1) % 2]
        table[i, chains.X_BAR] = between[i % 2]
        table[i, chains.WANTED] = i > 0 or input_bar
    if x_bar is not None:
        table[0, chains.X_BAR] = address(x_bar)
    chains.vjp_params(table, plan.members, plan.rows, *buffers[:-2])
    bars = []
    for i, parts in enumerate(layers):
        w, bias, scale, offset = made[4 * i : 4 * i + 4]
        bars.append(DenseParts(w, bias, *((scale, offset) if parts.scale is not None else ())))
    return x_bar, bars


def _shapes(layers: Sequence[DenseParts]) -> Iterator[tuple[Shape | None, ...]]:
    """Of kernel, bias, scale and offset of each layer."""
    for parts in layers:
        yield tuple(None if a is None else a.shape for a in parts)


def _addresses(layers: Sequence[DenseParts]) -> list[list[int]]:
    """Of the same; the bias stands in for what a layer has not."""
    return [[address(parts.bias if a is None else a) for a in parts] for parts in layers]


def fits(x: Shape, parts: Sequence[Shape | None], rule: DenseRule) -> bool:
    """Whether the compiled block knows these shapes of x, and of kernel, bias, scale, offset."""
    kernel, bias, scale, offset = parts
    assert kernel is not None
    if len(kernel) not in (2, 3) or len(x) not in (2, len(kernel)) or 0 in (*kernel, *x):
        return False
    if (scale is None) != (offset is None) or x[-1] != kernel[-2]:
        return False
    if len(x) == 3 and x[0] != kernel[0]:
        return False
    row = kernel[:-2] + kernel[-1:]
    vectors = (bias,) if scale is None else parts[1:]
    return rule.variance in ("fast", "two_pass") and all(shape == row for shape in vectors)


@lru_cache(maxsize=256)
def _forward_plan(
    x: Shape,
    dtype: np.dtype[Any],
    layers: tuple[Any, ...],
    rules: tuple[DenseRule, ...],
    saving: bool,
) -> Plan | None:
    """None if a shape does not fit. What is made: y, x̂, rstd and slope of each layer; of the latter
    three one row unless `saving`.
    """
    given = x
    for parts, rule in zip(layers, rules, strict=True):
        if not fits(given, parts, rule):
            return None
        given = (*parts[0][:-2], x[-2], parts[0][-1])
    table, members, rows = _table(x, layers, rules)
    shapes: list[Shape] = []
    for row in table:
        E, B, F = members, rows, int(row[chains.OUT])
        normed, sloped = row[chains.ORDER] > 0, row[chains.CODE] >= 0
        kept = B if saving else 1
        shapes += [(E, B, F), (E, kept, F if normed else 0), (E, kept if normed else 0)]
        shapes.append((E, kept, F if sloped else 0))
    offsets, size = layout(shapes, dtype.itemsize)
    table[:, chains.Y : chains.SLOPE + 1] = np.reshape(offsets, (-1, 4))
    needed = _needed(table, rows, dtype)
    first = {name: needed[name] for name in ("packed", "a_work", "c_work")}
    return Plan(members, rows, table, shapes, offsets, size, first)


@lru_cache(maxsize=256)
def _vjp_plan(
    x: Shape, dtype: np.dtype[Any], layers: tuple[Any, ...], rules: tuple[DenseRule, ...]
) -> Plan:
    """What is made: the cotangents of kernel, bias, scale and offset of each layer."""
    table, members, rows = _table(x, layers, rules)
    shapes = [s for parts in layers for s in (parts[0], *[parts[1]] * 3)]
    offsets, size = layout(shapes, dtype.itemsize)
    table[:, chains.W_BAR : chains.OFFSET_BAR + 1] = np.reshape(offsets, (-1, 4))
    needed = _needed(table, rows, dtype)
    widest = max(int(row[chains.IN]) for row in table)
    needed |= dict.fromkeys(("one_bar", "other_bar"), members * rows * widest)
    return Plan(members, rows, table, shapes, offsets, size, needed)


def _table(x: Shape, layers: Any, rules: Sequence[DenseRule]) -> tuple[Array, int, int]:
    """The table with its sizes, the number of members, and the rows of the batch."""
    table = np.zeros((len(layers), chains.COLUMNS), np.int64)
    kernel = layers[0][0]
    members = kernel[0] if len(kernel) == 3 else 1
    for row, (kernel, _, scale, _), rule in zip(table, layers, rules, strict=True):
        active = rule.activation is not None
        row[chains.IN], row[chains.OUT] = kernel[-2:]
        row[chains.ORDER] = order_of(scale is not None, active, rule.norm_after_activation)
        row[chains.CODE] = blocks.NO_ACTIVATION if not active else CODES[str(rule.activation)]
    table[0, chains.SHARED] = len(x) == 2
    return table, members, x[-2]


def _needed(table: Array, rows: int, dtype: np.dtype[Any]) -> dict[str, int]:
    """Elements of each buffer: the most that a layer needs."""
    sizes = [buffer_sizes(rows, int(row[chains.IN]), int(row[chains.OUT]), dtype) for row in table]
    return {name: max(size[name] for size in sizes) for name in sizes[0]}
