"""One number for each row, (B, 1): how it comes from rows, and what is done with it.

With `axpy` and `scaled`, whose scale may be such a column, they say every estimator whose steps
depend on the row. They have no products of their own: nothing differentiates through them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.arrays import Array


def numbers(value: float | Array, dtype: DTypeLike | None = None) -> Any:
    """Numbers (B, 1) in this dtype, the same array if it has it; of one number, NumPy's scalar.

    A scalar is a constant to those who record operations, an array of unknown origin is not.
    """
    array = np.asarray(value, dtype=dtype)
    return array if array.ndim else array[()]


def row_dot(x: Array, y: Array) -> Array:
    """⟨x, y⟩ of every row, (B, 1). x, y (B, D)."""
    return np.asarray((x * y).sum(axis=1, keepdims=True))


def product(x: Array, y: Array) -> Array:
    """x·y, elementwise."""
    return x * y


def plus(x: Array, number: float) -> Array:
    """x + number."""
    return x + number


def root(x: Array) -> Array:
    """√x, elementwise. A sum of squares that overflowed stays infinite, a NaN stays."""
    return np.asarray(np.sqrt(x))


def at_least(x: Array, number: float) -> Array:
    """max(x, number)."""
    return np.asarray(np.maximum(x, number))


def ratio(x: Array | float, y: Array | float) -> Array:
    """x/y, and 0 where x or y is not positive (a NaN stays). A row that has stopped stays put."""
    known = ~(np.less_equal(x, 0) | np.less_equal(y, 0))
    nothing = np.zeros(known.shape, np.result_type(x, y))
    return np.asarray(np.divide(x, y, out=nothing, where=known))


def where_positive(x: Array, y: Array) -> Array:
    """x where y > 0, else 0."""
    return np.asarray(np.where(y > 0, x, 0))


def divided(x: Array, number: Array, otherwise: Array) -> Array:
    """x/number, and `otherwise` where number is 0. x, otherwise (B, D), number () or (B, 1)."""
    zero = number == 0
    quotient: Array = np.where(zero, otherwise, x / np.where(zero, 1, number))
    return quotient


def nearest(x: Array, levels: Any, values: Any) -> Array:
    """Of the values (n,), that whose level (n,) is nearest to x (B, 1) by ratio, (B, 1), float64.

    The first among equals. x and levels are positive.
    """
    chosen = np.abs(np.log(np.asarray(levels) / x)).argmin(axis=1)
    return np.asarray(values)[chosen][:, None]
