"""Rows of a table by index: an embedding's forward and its products in the table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array


class LookupCache(NamedTuple):
    """What `lookup` saves: the row chosen for each (B,), and the table's number of rows N."""

    chosen: Array
    rows: int


def lookup(table: Array, index: int | Array, like: Array) -> tuple[Array, LookupCache]:
    """y_b = table[index_b]. table (N, W), index () or (B,) in 0 … N − 1, like (B, …) → y (B, W).

    jvp in the table: y_dot_b = table_dot[index_b].
    vjp in the table: table_bar_n = Σ over b with index_b = n of y_bar_b.
    Source: official.md, section 1 (Embed).
    """
    chosen = np.broadcast_to(np.asarray(index), like.shape[:1])
    return table[chosen], LookupCache(chosen, len(table))


def lookup_jvp(table_dot: Array, cache: LookupCache) -> Array:
    """y_dot (B, W) = table_dot[index]."""
    return table_dot[cache.chosen]


def lookup_vjp_params(y_bar: Array, cache: LookupCache) -> Array:
    """table_bar (N, W): each row of y_bar added to the row of the table that it came from."""
    table_bar = np.zeros((cache.rows, y_bar.shape[-1]), y_bar.dtype)
    np.add.at(table_bar, cache.chosen, y_bar)
    return table_bar
