"""What is written down of a primitive that the loop asks for: the recorder, and its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import Instruction, Kind, Op
from qgf_ref.ops import row_numbers
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp, lower_bound
from qgf_ref.ops.logits import probability
from qgf_ref.ops.structure import (
    axpy,
    batch_sum_vjp,
    cast,
    kept,
    scaled,
    squeeze_last,
    unsqueeze_last,
    zeros,
)

P = ParamSpec("P")
R = TypeVar("R")


class NotRecordable(Exception):
    """The computation does something that a program cannot say."""


Typed = tuple[Any, int]
"""An array, and the kind that it must be or will be."""


@dataclass
class ProgramRecorder:
    """A `Kernels` that knows the operations between the networks, and the networks' scribe."""

    action_dim: int
    members: int
    obs: Array = field(init=False)
    instructions: list[Instruction] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    known: dict[int, tuple[int, Any]] = field(default_factory=dict)
    """id of an array → its value, and the array itself so that the id stays taken."""
    answers: dict[Hashable, tuple[Any, Any]] = field(default_factory=dict)
    """What was asked → the arguments, whose ids stay taken, and the answer: no two instructions say
    the same."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def arbitrary(self, kind: Kind) -> Array:
        """Any array of that kind, for one row."""
        shapes = {Kind.ACTION: (1, self.action_dim), Kind.MEMBERS: (self.members, 1)}
        return self.rng.uniform(-0.1, 0.1, shapes.get(kind, (1,)))

    def define(self, array: R, kind: int) -> R:
        """A new value, which `array` stands for from now on."""
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
        self.kinds.append(kind)
        self.known[id(array)] = len(self.kinds) - 1, array
        return array

    def rename(self, array: Array, new: Array) -> None:
        """`new` is the same value in another shape or dtype."""
        self.known[id(new)] = self.value(array), new

    def value(self, array: Any) -> int:
        """What an array stands for. Raises NotRecordable."""
        known = self.known.get(id(array))
        if known is None:
            raise NotRecordable("an array that no recorded operation returned")
        return known[0]

    def kind(self, array: Any) -> int:
        """The kind of what an array stands for."""
        return self.kinds[self.value(array)]

    def number_of_rows(self, value: Any) -> Any:
        """A column as it is; a number as a column that holds it everywhere."""
        if isinstance(value, np.ndarray):
            return value
        column = np.full((1, 1), float(value))
        self.note(Op.FILL, (), ((column, Kind.SCALAR),), numbers=(number_of(value),))
        return column

    def note(
        self, op: Op, inputs: tuple[Typed, ...], outputs: tuple[Typed, ...], **rest: Any
    ) -> None:
        """Write an instruction down. Raises NotRecordable on inputs of other kinds."""
        read = tuple(self.value(array) for array, _ in inputs)
        if any(self.kinds[i] != kind for i, (_, kind) in zip(read, inputs)):
            raise NotRecordable(f"{op.name} of other values than the interpreter's")
        first = len(self.kinds)
        for array, kind in outputs:
            self.define(array, kind)
        written = tuple(range(first, len(self.kinds)))
        self.instructions.append(Instruction(op, read, written, **rest))

    def once(self, what: Hashable, args: tuple[Any, ...], write: Callable[[], R]) -> R:
        """The answer to what was asked of these arguments: `write` gives it at the first time."""
        key = what, tuple(map(_identity, args))
        if key not in self.answers:
            self.answers[key] = args, write()
        answer: R = self.answers[key][1]
        return answer

    def __call__(self, primitive: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the primitive returns, written down. Raises NotRecordable."""
        known = _PRIMITIVES.get(primitive)
        if known is None or kwargs:
            raise NotRecordable(f"the operation {primitive.__name__}")

        def write() -> R:
            returned = primitive(*args, **kwargs)
            known(self, args, returned)
            return returned

        return self.once(primitive, args, write)


def _identity(argument: Any) -> Hashable:
    """Of an array, or what holds some, which one it is; of a number, which."""
    plain = isinstance(argument, bool | int | float | str | np.generic | tuple)
    # a tuple of numbers says them, one of arrays is named: what is saved for a product
    arrays = isinstance(argument, tuple) and not all(isinstance(a, int | float) for a in argument)
    return repr(argument) if plain and not arrays else id(argument)


Scribe = Callable[[ProgramRecorder, tuple[Any, ...], Any], None]


def _like_first(op: Op, arrays: int, numbers: bool = False) -> Scribe:
    """The scribe of an operation on `arrays` values of one kind; then a number, if `numbers`."""

    def scribe(recorder: ProgramRecorder, args: tuple[Any, ...], returned: Array) -> None:
        kind = recorder.kind(args[0])
        inputs = tuple((array, kind) for array in args[:arrays])
        rest = tuple(number_of(value) for value in args[arrays:]) if numbers else ()
        recorder.note(op, inputs, ((returned, kind),), numbers=rest)

    return scribe


def _scale(number: Op, row: Op) -> Scribe:
    """The scribe of an operation whose first argument is a number or a column."""

    def scribe(recorder: ProgramRecorder, args: tuple[Any, ...], returned: Array) -> None:
        scale, *arrays = args
        kind = recorder.kind(arrays[0])
        inputs, output = tuple((array, kind) for array in arrays), ((returned, kind),)
        if isinstance(scale, np.ndarray):
            recorder.note(row, (*inputs, (scale, Kind.SCALAR)), output)
        else:
            recorder.note(number, inputs, output, numbers=(number_of(scale),))

    return scribe


def _clip(recorder: ProgramRecorder, args: tuple[Any, ...], returned: Any) -> None:
    x, bound = (*args, 1.0)[:2]  # bound and kink may be left at their defaults
    y, cache = returned
    outputs = (y, Kind.ACTION), (cache.slope, Kind.ACTION)
    recorder.note(Op.CLIP, ((x, Kind.ACTION),), outputs, numbers=(number_of(bound),))


def _clip_vjp(recorder: ProgramRecorder, args: tuple[Any, ...], x_bar: Array) -> None:
    y_bar, cache = args
    inputs = (y_bar, Kind.ACTION), (cache.slope, Kind.ACTION)
    recorder.note(Op.MULTIPLY, inputs, ((x_bar, Kind.ACTION),))


def _reduce(recorder: ProgramRecorder, args: tuple[Any, ...], returned: Any) -> None:
    q, aggregation = args  # with ties split, the default
    y, cache = returned
    deviations = lower_bound(aggregation)
    if deviations is not None:
        _lower_bound(recorder, q, y, cache.weight, deviations)
        return
    op = Op.REDUCE_MIN if aggregation == "min" else Op.REDUCE_MEAN
    recorder.note(op, ((q, Kind.MEMBERS),), ((y, Kind.SCALAR), (cache.weight, Kind.MEMBERS)))


def _lower_bound(
    recorder: ProgramRecorder, q: Array, y: Array, weight: Array, deviations: float
) -> None:
    """m − Kσ and 1/E − K(q_e − m)/(Eσ), in instructions that there are."""

    def note(op: Op, kind: Kind, *inputs: Typed, number: float | None = None) -> Array:
        array = recorder.arbitrary(kind)
        given = () if number is None else (number,)
        recorder.note(op, inputs, ((array, kind),), numbers=given)
        return array

    E, members, scalar = recorder.members, Kind.MEMBERS, Kind.SCALAR
    mean, shares, variance, others = (recorder.arbitrary(k) for k in (scalar, members) * 2)
    recorder.note(Op.REDUCE_MEAN, ((q, members),), ((mean, scalar), (shares, members)))
    each = note(Op.SHARE, members, (mean, scalar), (shares, members))
    apart = note(Op.AXPY, members, (each, members), (q, members), number=-E)
    square = note(Op.MULTIPLY, members, (apart, members), (apart, members))
    recorder.note(Op.REDUCE_MEAN, ((square, members),), ((variance, scalar), (others, members)))
    spread = note(Op.ROOT, scalar, (variance, scalar))
    recorder.note(
        Op.AXPY, ((spread, scalar), (mean, scalar)), ((y, scalar),), numbers=(-deviations,)
    )
    slope = note(Op.FILL, scalar, number=deviations / E)
    per_unit = note(Op.RATIO, scalar, (slope, scalar), (spread, scalar))
    pulled = note(Op.SHARE, members, (per_unit, scalar), (apart, members))
    recorder.note(
        Op.AXPY, ((pulled, members), (shares, members)), ((weight, members),), numbers=(-1.0,)
    )


def _reduce_vjp(recorder: ProgramRecorder, args: tuple[Any, ...], q_bar: Array) -> None:
    y_bar, cache = args
    inputs = (y_bar, Kind.SCALAR), (cache.weight, Kind.MEMBERS)
    recorder.note(Op.SHARE, inputs, ((q_bar, Kind.MEMBERS),))


def _ones(recorder: ProgramRecorder, args: tuple[Any, ...], q_bar: Array) -> None:
    (q,) = args
    if recorder.kind(q) != Kind.SCALAR:
        raise NotRecordable("a sum over more than one number of each row")
    recorder.note(Op.FILL, (), ((q_bar, Kind.SCALAR),), numbers=(1.0,))


def _zeros(recorder: ProgramRecorder, args: tuple[Any, ...], z: Array) -> None:
    like, *columns = args
    kind = Kind.SCALAR if columns == [1] else recorder.kind(like)
    if kind not in (Kind.ACTION, Kind.SCALAR) or columns not in ([], [1]):
        raise NotRecordable("zeros of another shape")
    recorder.note(Op.FILL, (), ((z, kind),), numbers=(0.0,))


def _renamed(recorder: ProgramRecorder, args: tuple[Any, ...], returned: Array) -> None:
    recorder.rename(args[0], returned)


def _ratio(recorder: ProgramRecorder, args: tuple[Any, ...], quotient: Array) -> None:
    inputs = tuple((recorder.number_of_rows(arg), Kind.SCALAR) for arg in args)
    recorder.note(Op.RATIO, inputs, ((quotient, Kind.SCALAR),))


def _divided(recorder: ProgramRecorder, args: tuple[Any, ...], quotient: Array) -> None:
    x, number, otherwise = args
    inputs = (x, Kind.ACTION), (number, Kind.SCALAR), (otherwise, Kind.ACTION)
    recorder.note(Op.DIVIDE, inputs, ((quotient, Kind.ACTION),))


def _row_dot(recorder: ProgramRecorder, args: tuple[Any, ...], dot: Array) -> None:
    x, y = args
    recorder.note(Op.ROW_DOT, ((x, Kind.ACTION), (y, Kind.ACTION)), ((dot, Kind.SCALAR),))


def _nearest(recorder: ProgramRecorder, args: tuple[Any, ...], chosen: Array) -> None:
    x, levels, values = args
    numbers = tuple(number_of(value) for value in (*levels, *values))
    recorder.note(Op.NEAREST, ((x, Kind.SCALAR),), ((chosen, Kind.SCALAR),), numbers=numbers)


def _kept(recorder: ProgramRecorder, args: tuple[Any, ...], y: Array) -> None:
    x, columns = args
    numbers = tuple(number_of(column) for column in columns)
    recorder.note(Op.KEEP, ((x, Kind.ACTION),), ((y, Kind.ACTION),), numbers=numbers)


def _probability(
    recorder: ProgramRecorder, args: tuple[Any, ...], returned: tuple[Array, Array]
) -> None:
    """q = σ(z) and its slope q·σ(−z)."""
    (z,), (q, slope) = args, returned
    kind = recorder.kind(z)
    below, rest = (recorder.arbitrary(Kind(kind)) for _ in range(2))
    recorder.note(Op.SIGMOID, ((z, kind),), ((q, kind),))
    recorder.note(Op.SCALE, ((z, kind),), ((below, kind),), numbers=(-1.0,))
    recorder.note(Op.SIGMOID, ((below, kind),), ((rest, kind),))
    recorder.note(Op.MULTIPLY, ((q, kind), (rest, kind)), ((slope, kind),))


def number_of(value: Any) -> float:
    """The number that an argument is. Raises NotRecordable."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise NotRecordable("a factor that is not one number")
    return float(value)


_PRIMITIVES: dict[Callable[..., Any], Scribe] = {
    axpy: _scale(Op.AXPY, Op.AXPY_ROW),
    scaled: _scale(Op.SCALE, Op.SCALE_ROW),
    clip: _clip,
    clip_vjp: _clip_vjp,
    ensemble_reduce: _reduce,
    ensemble_reduce_vjp: _reduce_vjp,
    batch_sum_vjp: _ones,
    zeros: _zeros,
    cast: _renamed,
    squeeze_last: _renamed,
    unsqueeze_last: _renamed,
    row_numbers.row_dot: _row_dot,
    row_numbers.ratio: _ratio,
    row_numbers.divided: _divided,
    row_numbers.nearest: _nearest,
    kept: _kept,
    probability: _probability,
    row_numbers.root: _like_first(Op.ROOT, 1),
    row_numbers.product: _like_first(Op.MULTIPLY, 2),
    row_numbers.where_positive: _like_first(Op.WHERE_POSITIVE, 2),
    row_numbers.plus: _like_first(Op.PLUS, 1, numbers=True),
    row_numbers.at_least: _like_first(Op.AT_LEAST, 1, numbers=True),
}
