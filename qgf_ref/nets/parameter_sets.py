"""Parameters of several networks as one set, for what takes each array alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams


@dataclass(frozen=True)
class ParameterSets:
    """The sets of several networks, one after another, with `arrays`, `map`, `replace` of each."""

    sets: tuple[MLPParams, ...]

    def arrays(self) -> tuple[Array, ...]:
        """Those of all networks, in order."""
        return tuple(array for params in self.sets for array in params.arrays())

    def map(self, f: Callable[..., Array], *others: ParameterSets) -> ParameterSets:
        """f applied to corresponding arrays of this and the others."""
        rest = [other.arrays() for other in others]
        return self.replace(f(*leaf) for leaf in zip(self.arrays(), *rest, strict=True))

    def replace(self, arrays: Iterable[Array]) -> ParameterSets:
        """The same structure around other arrays, in the order of `arrays`."""
        values: Iterator[Array] = iter(arrays)
        return ParameterSets(tuple(params.replace(values) for params in self.sets))


def joined(sets: Sequence[MLPParams]) -> Any:
    """The sets as one; a single one as it is."""
    return sets[0] if len(sets) == 1 else ParameterSets(tuple(sets))


def apart(params: Any) -> tuple[MLPParams, ...]:
    """What was `joined`, one by one."""
    return params.sets if isinstance(params, ParameterSets) else (params,)
