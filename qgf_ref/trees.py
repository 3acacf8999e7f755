"""Arrays and tuples of arrays: what functions of one or several arrays take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError

Tree = Array | tuple[Array, ...]
"""An array, or a tuple of arrays (the inputs or outputs of a function of several)."""
Function = Callable[..., Any]


def leaves(x: Tree) -> tuple[Array, ...]:
    """The arrays of a tree."""
    return tuple(np.asarray(a) for a in x) if isinstance(x, tuple) else (np.asarray(x),)


def numbers(x: Tree) -> tuple[Array, ...]:
    """The arrays of what a user gives as x. Raises InputError where it has anything else."""
    try:
        arrays = leaves(x)
    except ValueError:  # a list of arrays of different shapes
        arrays = (np.array(None),)
    if any(a.dtype.kind not in "biufc" for a in arrays):
        parts = x if isinstance(x, tuple) else (x,)
        kinds = ", ".join(
            f"{part.dtype} array" if isinstance(part, np.ndarray) else type(part).__name__
            for part in parts
        )
        raise InputError(f"x must be an array of numbers, or a tuple of them, got {kinds}")
    return arrays


def own_copy(x: Tree) -> Tree:
    """The tree with arrays of its own."""
    return like(tuple(np.array(a, subok=True) for a in leaves(x)), x)


def like(arrays: tuple[Array, ...], x: Tree) -> Tree:
    """Arrays in the structure of x."""
    return arrays if isinstance(x, tuple) else arrays[0]


def norm(x: Tree) -> float:
    """The Euclidean norm over all arrays."""
    return float(np.sqrt(sum(np.vdot(a, a).real for a in leaves(x))))


def shifted(x: Tree, step: complex, x_dot: Tree) -> Tree:
    """x + step·x_dot."""
    return like(tuple(a + step * b for a, b in zip(leaves(x), leaves(x_dot), strict=True)), x)
