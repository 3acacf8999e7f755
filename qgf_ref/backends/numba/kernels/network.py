"""A whole network's forward, and its cotangents, in one compiled call each.

Between two layers Python would take as long as a fifth of a product of 256×256×256. What depends on
shapes alone is worked out once and kept as a plan; a call fills in where the arrays lie. The caches
are those of the single blocks, so that every other product works on them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import blocks, chains
from qgf_ref.backends.numba.kernels.leaves import Leaves, Parameters, leaves_of, memo_of
from qgf_ref.backends.numba.kernels.memory import address, empty, scratch, several
from qgf_ref.backends.numba.kernels.packing import buffer_sizes
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.ops.dense import DenseParts, DenseRule, order_of

Shape = tuple[int, ...]


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


class CompiledCache(NamedTuple):
    """What the compiled block's forward saved; arrays of no elements where it has no such part.

    x (B, I) or (E, B, I), kernel, scale as given; x_hat and slope (E, B, F), rstd (E, B). E is 1
    without an ensemble. The rule is what second derivatives need besides. `row`: that of the
    forward's table, in which layer `layer` of `plan` has its addresses.
    """

    x: Array
    parts: DenseParts
    x_hat: Array
    rstd: Array
    slope: Array
    rule: DenseRule
    plan: Plan
    layer: int
    row: Array


def forward(
    x: Array, params: Parameters, rules: tuple[DenseRule, ...], saving: bool = True
) -> tuple[Array, tuple[CompiledCache | None, ...]] | None:
    """y (B, F), or (E, B, F) of an ensemble, and what each block saved, None unless `saving`.

    None of what the single blocks shall do: arrays of several dtypes, of none of `DTYPES`, that are
    not contiguous, and shapes that do not fit.
    """
    dtype, leaves = x.dtype, leaves_of(params)
    if leaves is None or leaves.dtype != dtype or not x.flags.c_contiguous:
        return None
    plan = _forward_plan(x.shape, dtype, layers_of(params, leaves), rules, saving)
    if plan is None:
        return None
    made, addresses = several(plan.shapes, dtype)
    table = plan.table.copy()
    table[:, chains.Y : chains.SLOPE + 1] = addresses.reshape(-1, 4)
    table[0, chains.X] = address(x)
    table[1:, chains.X] = table[:-1, chains.Y]
    table[:, chains.W : chains.OFFSET + 1] = leaves.addresses[plan.which]
    fast, eps = rules[0].variance == "fast", rules[0].layer_norm_eps
    buffers = scratch(plan.scratch, dtype)
    chains.forward(table, plan.members, plan.rows, eps, fast, saving, *buffers)
    ensemble = len(plan.layers[-1][0]) == 3
    if not saving:
        return (made[-4] if ensemble else made[-4][0]), (None,) * len(rules)
    caches = []
    for i, layer in enumerate(params.layers):
        y, x_hat, rstd, slope = made[4 * i : 4 * i + 4]
        parts = DenseParts(*layer.parts())
        row = table[i : i + 1]
        caches.append(CompiledCache(x, parts, x_hat, rstd, slope, rules[i], plan, i, row))
        x = y if ensemble else y[0]
    return x, tuple(caches)


def vjp(y_bar: Array, caches: Sequence[Any]) -> Array | None:
    """The cotangent of the input, summed over the members that share it. As `vjp_params`."""
    own = _followed(y_bar, caches)
    if own is None:
        return None
    x = caches[0].x
    x_bar = empty(x.shape, x.dtype)
    buffers, table, _ = _filled(own, y_bar, caches, x_bar)
    chains.vjp(table, own.members, own.rows, *buffers[:3])
    return x_bar


def vjp_params(
    y_bar: Array, caches: Sequence[Any], input_bar: bool
) -> tuple[Array | None, list[DenseParts], dict[str, Any]] | None:
    """The cotangents of the input, or None unless it is asked for, and of each block's parameters;
    and what a set of the latter is to remember.

    caches: of blocks that follow each other, of one `forward`. None where they are not, or where
    y_bar is complex. Raises ValueError on a y_bar of another size: compiled code would read on.
    """
    own = _followed(y_bar, caches)
    if own is None:
        return None
    x = caches[0].x
    made, addresses = several(own.shapes, x.dtype)
    x_bar = empty(x.shape, x.dtype) if input_bar else None
    buffers, table, kept = _filled(own, y_bar, caches, x_bar)
    table[:, chains.W_BAR : chains.OFFSET_BAR + 1] = addresses[own.which]
    chains.vjp_params(table, own.members, own.rows, *buffers)
    del kept
    bars = iter(made)
    layers_bar = [
        DenseParts(*[None if shape is None else next(bars) for shape in layer])  # type: ignore[arg-type]
        for layer in own.layers
    ]
    found = Leaves(x.dtype, own.shapes[:-1], own.sizes, addresses[:-1], own.layers)
    return x_bar, layers_bar, memo_of(found)


def _followed(y_bar: Array, caches: Sequence[Any]) -> Plan | None:
    """The plan of the way back through these blocks, if they follow each other."""
    first = caches[0]
    if y_bar.dtype.kind == "c" or not isinstance(first, CompiledCache):
        return None
    plan, begin, end = first.plan, first.layer, first.layer + len(caches)
    for layer, cache in enumerate(caches, begin):
        if not isinstance(cache, CompiledCache) or cache.plan is not plan or cache.layer != layer:
            return None
    return _vjp_plan(first.x.shape, first.x.dtype, plan.layers[begin:end], plan.rules[begin:end])


def _filled(
    own: Plan, y_bar: Array, caches: Sequence[Any], x_bar: Array | None
) -> tuple[list[Array], Array, Array]:
    """Buffers and table of the way back, and y_bar as the table has its address: to be kept.

    Raises ValueError on a y_bar of another size.
    """
    dtype, out = caches[0].x.dtype, (own.members, own.rows, own.layers[-1][0][-1])
    if y_bar.ndim == 2 and own.members > 1:  # one for all members
        y_bar = np.broadcast_to(y_bar, out)
    if y_bar.shape[-2:] != out[1:] or y_bar.size != math.prod(out):
        raise ValueError(f"y_bar must have shape {out}, got {y_bar.shape}")
    y_bar = np.ascontiguousarray(y_bar, dtype)
    *buffers, one, other = scratch(own.scratch, dtype)
    table = own.table.copy()
    rows = np.concatenate([cache.row for cache in caches])  # the forward's addresses
    table[:, chains.X : chains.SLOPE + 1] = rows[:, chains.X : chains.SLOPE + 1]
    table[0::2, chains.X_BAR], table[1::2, chains.X_BAR] = address(one), address(other)
    table[:-1, chains.Y_BAR] = table[1:, chains.X_BAR]
    table[-1, chains.Y_BAR] = address(y_bar)
    table[:, chains.WANTED] = 1
    if x_bar is None:
        table[0, chains.WANTED] = 0
    else:
        table[0, chains.X_BAR] = address(x_bar)
    return buffers, table, y_bar


def layers_of(params: Parameters, leaves: Leaves) -> tuple[Any, ...]:
    """The shapes of kernel, bias, scale and offset of each layer, None of what it has not."""
    if leaves.layers is None:
        leaves.layers = tuple(
            tuple(None if a is None else a.shape for a in layer.parts()) for layer in params.layers
        )
    return leaves.layers


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
def _vjp_plan(
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
