"""A whole network's forward, and its cotangents, in one compiled call each.

Between two layers Python would take as long as a fifth of a product of 256×256×256. What depends on
shapes alone is worked out once and kept as a plan; a call fills in where the arrays lie. The caches
are those of the single blocks, so that every other product works on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.kernels import chains
from qgf_ref.backends.numba.kernels.leaves import Leaves, Parameters, leaves_of, memo_of
from qgf_ref.backends.numba.kernels.memory import address, empty, scratch, several
from qgf_ref.backends.numba.kernels.plans import Plan, forward_plan, row_parts, vjp_plan
from qgf_ref.ops.dense import DenseParts, DenseRule
from qgf_ref.sharing import shared


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
    plan = forward_plan(x.shape, dtype, layers_of(params, leaves), rules, saving)
    if plan is None:
        return None
    made, addresses = several(plan.shapes, dtype)
    table = plan.table.copy()
    table[:, chains.Y : chains.SLOPE + 1] = addresses.reshape(-1, 4)
    table[0, chains.X] = address(x)
    table[1:, chains.X] = table[:-1, chains.Y]
    table[:, chains.W : chains.OFFSET + 1] = leaves.addresses[plan.which]
    fast, eps = rules[0].variance == "fast", rules[0].layer_norm_eps
    run = partial(_forward, plan, table, dtype, eps, fast, saving)
    # what is not saved lies on one row, which threads cannot share
    shared([partial(run, *rows) for rows in row_parts(plan if saving else None, plan.rows)])
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


def _forward(
    plan: Plan,
    table: Array,
    dtype: np.dtype[Any],
    eps: float,
    fast: bool,
    saving: bool,
    begin: int,
    rows: int,
) -> None:
    """On some rows of the batch, all of them if there are several members."""
    table = _from_row(table, begin, dtype)
    buffers = scratch(plan.scratch, dtype)
    chains.forward(table, plan.members, rows, eps, fast, saving, *buffers)


def vjp(y_bar: Array, caches: Sequence[Any]) -> Array | None:
    """The cotangent of the input, summed over the members that share it. As `vjp_params`."""
    own = _followed(y_bar, caches)
    if own is None:
        return None
    x = caches[0].x
    x_bar = empty(x.shape, x.dtype)
    y_bar = _cotangent(own, y_bar, x.dtype)
    buffers, table = _filled(own, y_bar, caches, x_bar, 0)
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
    x_bar = empty(x.shape, x.dtype) if input_bar else None
    y_bar = _cotangent(own, y_bar, x.dtype)
    parts = row_parts(own, own.rows)
    made, addresses = zip(*(several(own.shapes, x.dtype) for _ in parts), strict=True)

    def run(part: int, begin: int, rows: int) -> None:
        goal = None if x_bar is None else x_bar[..., begin : begin + rows, :]
        buffers, table = _filled(own, y_bar, caches, goal, begin)
        table[:, chains.W_BAR : chains.OFFSET_BAR + 1] = addresses[part][own.which]
        chains.vjp_params(table, own.members, rows, *buffers)

    shared([partial(run, n, *rows) for n, rows in enumerate(parts)])
    for other in made[1:]:
        for total, array in zip(made[0][:-1], other[:-1], strict=True):
            total += array
    bars = iter(made[0])
    layers_bar = [
        DenseParts(*[None if shape is None else next(bars) for shape in layer])  # type: ignore[arg-type]
        for layer in own.layers
    ]
    found = Leaves(x.dtype, own.shapes[:-1], own.sizes, addresses[0][:-1], own.layers)
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
    return vjp_plan(first.x.shape, first.x.dtype, plan.layers[begin:end], plan.rules[begin:end])


def _cotangent(own: Plan, y_bar: Array, dtype: np.dtype[Any]) -> Array:
    """y_bar of all members, contiguous. Raises ValueError on one of another shape."""
    out = (own.members, own.rows, own.layers[-1][0][-1])
    if y_bar.ndim == 2 and own.members > 1:  # one for all members
        y_bar = np.broadcast_to(y_bar, out)
    if y_bar.shape[-2:] != out[1:] or y_bar.size != math.prod(out):
        raise ValueError(f"y_bar must have shape {out}, got {y_bar.shape}")
    return np.ascontiguousarray(y_bar, dtype)


def _filled(
    own: Plan, y_bar: Array, caches: Sequence[Any], x_bar: Array | None, begin: int
) -> tuple[list[Array], Array]:
    """Buffers and table of the way back, from row `begin` on; x_bar: of these rows."""
    dtype = caches[0].x.dtype
    *buffers, one, other = scratch(own.scratch, dtype)
    table = own.table.copy()
    rows = np.concatenate([cache.row for cache in caches])  # the forward's addresses
    table[:, chains.X : chains.SLOPE + 1] = rows[:, chains.X : chains.SLOPE + 1]
    table = _from_row(table, begin, dtype)
    table[0::2, chains.X_BAR], table[1::2, chains.X_BAR] = address(one), address(other)
    table[:-1, chains.Y_BAR] = table[1:, chains.X_BAR]
    table[-1, chains.Y_BAR] = address(y_bar) + begin * table[-1, chains.OUT] * dtype.itemsize
    table[:, chains.WANTED] = 1
    if x_bar is None:
        table[0, chains.WANTED] = 0
    else:
        table[0, chains.X_BAR] = address(x_bar)
    return buffers, table


def _from_row(table: Array, begin: int, dtype: np.dtype[Any]) -> Array:
    """A forward's table, of the rows from `begin` on."""
    if not begin:
        return table
    table, skipped = table.copy(), begin * dtype.itemsize
    normed, sloped = table[:, chains.ORDER] > 0, table[:, chains.CODE] >= 0
    table[:, chains.X] += skipped * table[:, chains.IN]
    table[:, chains.Y] += skipped * table[:, chains.OUT]
    table[:, chains.X_HAT] += skipped * table[:, chains.OUT] * normed
    table[:, chains.RSTD] += skipped * normed
    table[:, chains.SLOPE] += skipped * table[:, chains.OUT] * sloped
    return table


def layers_of(params: Parameters, leaves: Leaves) -> tuple[Any, ...]:
    """The shapes of kernel, bias, scale and offset of each layer, None of what it has not."""
    if leaves.layers is None:
        leaves.layers = tuple(
            tuple(None if a is None else a.shape for a in layer.parts()) for layer in params.layers
        )
    return leaves.layers
