"""Observations of any structure: the flow carries row numbers, the network gets the structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.user_code import error_summary

Select = Callable[[Any, Array], Any]
"""(observations, rows (B,) integers) → the same structure with these rows, in this order."""


def row_numbers(count: int) -> Array:
    """The obs (N, 1) of a flow whose adapter was given N observations: 0, 1, … N − 1."""
    return np.arange(count, dtype=np.float64)[:, None]


def leaves(structure: Any, path: str = "observations") -> Iterator[tuple[str, Any]]:
    """The arrays of a structure, each with where it is."""
    if isinstance(structure, Mapping):
        for name, value in structure.items():
            yield from leaves(value, f"{path}[{name!r}]")
    elif isinstance(structure, list | tuple):
        for i, value in enumerate(structure):
            yield from leaves(value, f"{path}[{i}]")
    elif getattr(structure, "ndim", 0) and hasattr(structure, "shape"):
        yield path, structure


def take(structure: Any, rows: Array) -> Any:
    """Every array of the structure indexed along its first axis; everything else as it is."""
    if isinstance(structure, Mapping):
        chosen = {name: take(value, rows) for name, value in structure.items()}
        return chosen if type(structure) is dict else type(structure)(chosen)  # type: ignore[call-arg]
    if isinstance(structure, list):
        return [take(value, rows) for value in structure]
    if isinstance(structure, tuple):
        values = [take(value, rows) for value in structure]
        named = hasattr(structure, "_fields")
        return type(structure)(*values) if named else tuple(values)
    if getattr(structure, "ndim", 0) and hasattr(structure, "shape"):
        return structure[rows]
    return structure


class Observations:
    """N observations, and the rows of them that a call asks for.

    With a `select` N is the number of rows of which it gives arrays as they are in the structure;
    where there is none such, the first array's length.
    Raises InputError unless `select` is given or every array of the structure has one first axis.
    """

    def __init__(self, structure: Any, select: Select | None) -> None:
        if select is not None and not callable(select):
            raise InputError(
                "select must be a function (observations, rows) → the structure with these rows, "
                f"got {type(select).__name__}"
            )
        self.structure, self.select = structure, select or take
        lengths = {path: int(array.shape[0]) for path, array in leaves(structure)}
        if not lengths:
            raise InputError(
                "observations holds no arrays that tell how many there are: give select=…, and an "
                "array of N rows somewhere in a dict, list or tuple"
            )
        (first, self.count), *others = lengths.items()
        for path, length in others:
            if length != self.count and select is None:
                raise InputError(
                    f"{path} has {length} rows and {first} has {self.count}: give select=…, a "
                    "function (observations, rows) → the structure with these rows"
                )
        if select is not None:
            self.count = self._whole() or self.count
        if self.count < 1:
            raise InputError(f"{first} has no rows: give at least one observation")

    def _whole(self) -> int | None:
        """The N of which `select` gives arrays shaped like the structure's."""
        shapes = [tuple(array.shape) for _, array in leaves(self.structure)]
        for count in dict.fromkeys(n for axis in zip_longest(*shapes) for n in axis if n):
            try:
                rows = self.select(self.structure, np.arange(count))
            except Exception:  # noqa: BLE001  (not that many rows)
                continue
            if [tuple(array.shape) for _, array in leaves(rows)] == shapes:
                return count
        return None

    def of(self, obs: Array) -> Any:
        """What the network is given for obs (B, 1), row numbers; of all N the object itself.

        Raises InputError on numbers that are no rows.
        """
        if not self.partly(obs):
            return self.structure
        numbers = np.asarray(obs)[:, 0]
        rows = np.rint(numbers).astype(int)
        if (rows != numbers).any() or (rows < 0).any() or (rows >= self.count).any():
            raise InputError(
                f"obs of this flow are row numbers 0 … {self.count - 1}, of shape (B, 1): "
                "qgf_ref.adapters.row_numbers(N)"
            )
        # not remembered: a robot's loop may write its next observation into the same arrays
        try:
            return self.select(self.structure, rows)
        except Exception as error:
            raise InputError(
                f"selecting rows {rows[:4].tolist()} of {self.count} observations raised "
                f"{error_summary(error)}: select is (observations, rows) → the structure with "
                "these rows"
            ) from error

    def partly(self, obs: Array) -> bool:
        """Whether `of` selects."""
        return not np.array_equal(np.asarray(obs)[:, 0], np.arange(self.count))


def known_observations(flow: Any) -> Array | None:
    """The obs of a flow whose adapter was given observations: all their numbers (of one, twice:
    a check of rows needs two); else None.
    """
    network = flow.field
    while network is not None:
        held = getattr(network, "observations", None)
        if isinstance(held, Observations):
            return row_numbers(held.count) if held.count > 1 else np.zeros((2, 1))
        network = getattr(network, "base", None)
    return None
