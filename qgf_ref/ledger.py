"""The product ledger: every operation behind one gradient, written down and replayable.

`Ledger` is a `Kernels`: given to networks and estimators in place of the reference, it runs each
primitive and records what went in and what came out. Arguments are stored as references, either
to an earlier entry's output or to a named leaf (observation, action, parameter). `replay` runs the
record again from the leaves alone; that it ends in the same gradient shows that nothing happened
off the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams

P = ParamSpec("P")
R = TypeVar("R")

LAYERED = ("linear", "layer_norm", "activation")
"""Primitives that belong to one layer of a network."""


class Output(NamedTuple):
    """A reference to output number `part` of entry number `entry`."""

    entry: int
    part: int


class Leaf(NamedTuple):
    """A reference to a named input of the computation."""

    name: str


class Constant(NamedTuple):
    """A value that is no array: a number, a name, a shape."""

    value: Any


class Group(NamedTuple):
    """References that were passed as one tuple."""

    members: tuple[Any, ...]


@dataclass(frozen=True)
class LedgerEntry:
    """One primitive's run. `inputs` are references, `operand` and `outputs` what they were."""

    index: int
    primitive: Callable[..., Any]
    inputs: tuple[Any, ...]
    operand: Array | None
    outputs: tuple[Any, ...]
    where: str

    @property
    def operation(self) -> str:
        """The primitive's name without its kind of product."""
        name = self.primitive.__name__
        for suffix in ("_vjp_params", "_vjp_jvp", "_vjp", "_jvp"):
            name = name.removesuffix(suffix)
        return name

    @property
    def product(self) -> str:
        """ "forward", "jvp", "vjp", or "vjp_jvp" of a vjp's derivative."""
        name = self.primitive.__name__
        kinds = ("vjp_jvp", "vjp", "jvp")
        return next((kind for kind in kinds if f"_{kind}" in name), "forward")

    @property
    def result(self) -> Array | None:
        """The first array among the outputs."""
        return next((o for o in self.outputs if isinstance(o, np.ndarray)), None)


@dataclass
class Ledger:
    """A recording `Kernels`. Declare the leaves, run the estimator with it, then read `entries`."""

    entries: list[LedgerEntry] = field(default_factory=list)
    leaves: dict[str, Array] = field(default_factory=dict)
    undeclared: list[str] = field(default_factory=list)
    """Names given to arrays that came from outside the record: none, if it is complete."""
    _references: dict[int, Any] = field(default_factory=dict)
    _places: dict[int, str] = field(default_factory=dict)

    def declare(self, name: str, value: Array) -> None:
        """Make `value` a named leaf."""
        self.leaves[name] = value
        self._references[id(value)] = Leaf(name)

    def declare_params(self, network: str, params: MLPParams) -> None:
        """Make every array of a network a leaf named `network.layers.i.part`."""
        for name, array in params.named():
            self.declare(f"{network}.{name}", array)

    def __call__(self, primitive: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run and record."""
        if kwargs:
            raise TypeError("the ledger records positional arguments only")
        inputs = tuple(self._reference(a) for a in args)
        returned = primitive(*args, **kwargs)
        plain_tuple = type(returned) is tuple
        outputs: tuple[Any, ...] = returned if plain_tuple else (returned,)  # type: ignore[assignment]
        index = len(self.entries)
        operand = next((a for a in _flatten(args) if isinstance(a, np.ndarray)), None)
        place = self._place(primitive.__name__, inputs)
        self.entries.append(LedgerEntry(index, primitive, inputs, operand, outputs, place))
        for part, output in enumerate(outputs):
            self._references[id(output)] = Output(index, part)
        return returned

    def replay(self, result: Array) -> Array:
        """`result` re-derived: every entry run again from the leaves alone.

        Raises KeyError if `result` is neither an output of a recorded operation nor a copy of one,
        as the answers of users' functions are.
        """
        reference = self._references.get(id(result)) or self._copied(result)
        if not isinstance(reference, Output):
            raise KeyError("the array is not the output of a recorded operation")
        values: list[tuple[Any, ...]] = []
        for entry in self.entries:
            args = [self._resolve(r, values) for r in entry.inputs]
            returned = entry.primitive(*args)
            values.append(returned if type(returned) is tuple else (returned,))
        return np.asarray(values[reference.entry][reference.part])

    def _copied(self, result: Array) -> Output | None:
        """The last output of the same bits; zeros, which anybody may make, are nobody's."""
        if not np.any(result):
            return None
        for entry in reversed(self.entries):
            for part, output in enumerate(entry.outputs):
                if isinstance(output, np.ndarray) and np.array_equal(output, result):
                    return Output(entry.index, part)
        return None

    def _reference(self, value: Any) -> Any:
        known = self._references.get(id(value))
        if known is not None:
            return known
        if isinstance(value, np.ndarray):
            name = f"undeclared {len(self.undeclared) + 1}"
            self.undeclared.append(name)
            self.declare(name, value)
            return Leaf(name)
        if type(value) is tuple and any(isinstance(v, np.ndarray) for v in value):
            return Group(tuple(self._reference(v) for v in value))
        return Constant(value)

    def _resolve(self, reference: Any, values: list[tuple[Any, ...]]) -> Any:
        match reference:
            case Output(entry, part):
                return values[entry][part]
            case Leaf(name):
                return self.leaves[name]
            case Group(members):
                return tuple(self._resolve(m, values) for m in members)
            case _:
                return reference.value

    def _place(self, primitive: str, inputs: tuple[Any, ...]) -> str:
        """The layer that an operation belongs to: from its parameters, its cache, or its input."""
        if not primitive.startswith(LAYERED):
            return ""
        for reference in inputs:
            if isinstance(reference, Leaf) and ".layers." in reference.name:
                network, _, layer, *_ = reference.name.split(".")
                return f"{network} {layer}"
        sources = [r for r in inputs if isinstance(r, Output)]
        cached = [r for r in sources if r.part == 1]
        if not sources:
            return ""
        return self.entries[(cached or sources)[0].entry].where


def _flatten(args: tuple[Any, ...]) -> list[Any]:
    return [leaf for a in args for leaf in (a if type(a) is tuple else (a,))]
