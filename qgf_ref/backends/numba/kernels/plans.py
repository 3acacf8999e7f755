"""What a network's calls take from shapes alone, worked out once: tables, results, buffers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import blocks, chains
from qgf_ref.backends.numba.kernels.packing import CHUNK, buffer_sizes
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.backends.numba.kernels.simd import TILE_ROWS
from qgf_ref.ops.dense import DenseRule, order_of

Shape = tuple[int, ...]
PARTS = 8
"""Of a batch of more than `CHUNK` rows: what a part holds stays nearer, and threads can share."""


class Plan(NamedTuple):
    """What a network's call takes from shapes alone.

    layers   shapes of kernel, bias, scale and offset of each
    table    of `chains`, sizes filled in
    which    (L, 4): which of the parameters' arrays these four are, of what is given counted from
             the last, with the bias in place of what a layer has not; of what is made the last one
             stands in
    shapes   of what is made
    sizes    (n,), of the parameters' arrays
    scratch  elements of each buffer
    """

    members: int
    rows: int
    layers: tuple[Any, ...]
    rules: tuple[DenseRule, ...]
    table: Array
    which: Array
    shapes: tuple[Shape, ...]
    sizes: Array
    scratch: dict[str, int]


def row_parts(plan: Plan | None, rows: int) -> list[tuple[int, int]]:
    """First row and number of rows of the parts in which many rows are gone through.

    They depend on the batch alone: cotangents of parameters are summed within each, then in order.
    One part of several members, whose rows do not follow each other, and where no plan is given.
    """
    if rows <= CHUNK or plan is None or plan.members > 1:
        return [(0, rows)]
    each = -(-rows // PARTS // TILE_ROWS) * TILE_ROWS
    return [(begin, min(each, rows - begin)) for begin in range(0, rows, each)]


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
def forward_plan(
    x: Shape,
    dtype: np.dtype[Any],
    layers: tuple[Any, ...],
    rules: tuple[DenseRule, ...],
    saving: bool,
) -> Plan | None:
    """None if a shape does not fit, or the rules differ in more than the activation.

    What is made: y, x̂, rstd and slope of each layer; of the latter three one row unless `saving`.
    """
    if any(rule[1:] != rules[0][1:] or rule.activation not in (None, *CODES) for rule in rules):
        return None
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
    needed = _needed(table, rows, dtype)
    first = {name: needed[name] for name in ("packed", "a_work", "c_work")}
    which, at = np.empty((len(layers), 4), np.int64), 0
    for i in reversed(range(len(layers))):
        there = [shape is not None for shape in layers[i]]
        at -= sum(there)
        which[i] = [at + sum(there[:j]) if there[j] else at + 1 for j in range(4)]
    return Plan(members, rows, layers, rules, table, which, tuple(shapes), _sizes(layers), first)


@lru_cache(maxsize=256)
def vjp_plan(
    x: Shape, dtype: np.dtype[Any], layers: tuple[Any, ...], rules: tuple[DenseRule, ...]
) -> Plan:
    """What is made: the cotangents of kernel, bias, scale and offset of each layer."""
    table, members, rows = _table(x, layers, rules)
    shapes = [shape for parts in layers for shape in parts if shape is not None]
    following = itertools.count()
    which = [[-1 if shape is None else next(following) for shape in parts] for parts in layers]
    shapes.append((max(math.prod(parts[1]) for parts in layers),))
    widest = max(int(row[chains.IN]) for row in table)
    needed = _needed(table, rows, dtype)
    needed |= dict.fromkeys(("one_bar", "other_bar"), members * rows * widest)
    return Plan(
        members, rows, layers, rules, table, np.array(which), tuple(shapes), _sizes(layers), needed
    )


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


def _sizes(layers: Any) -> Array:
    """Elements of each array of the parameters."""
    return np.array([math.prod(s) for parts in layers for s in parts if s is not None], np.int64)


def _needed(table: Array, rows: int, dtype: np.dtype[Any]) -> dict[str, int]:
    """Elements of each buffer: the most that a layer needs."""
    sizes = [buffer_sizes(rows, int(row[chains.IN]), int(row[chains.OUT]), dtype) for row in table]
    return {name: max(size[name] for size in sizes) for name in sizes[0]}
