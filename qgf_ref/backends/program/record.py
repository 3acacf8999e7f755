"""Recording: the reference loop is run once on stand-ins, and what it asks of them is the program.

No algorithm is written a second time. The stand-in networks answer with arbitrary arrays of the
right shape and write down who asked for what, by the identity of the arrays that come back as
arguments. What the loop computes from an array behind the recorder's back would be lost; hence
only estimators that are `recordable` are recorded, and an unknown array ends the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import CRITIC, FIELD, Instruction, Kind, Op, Program
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.ops.structure import axpy, batch_sum_vjp, scaled, zeros
from qgf_ref.ops.time_embedding import Precision

P = ParamSpec("P")
R = TypeVar("R")


class NotRecordable(Exception):
    """The computation does something that a program cannot say."""


class Shape(NamedTuple):
    """All that a recording needs to know of a flow: widths, members, loop."""

    action_dim: int
    members: int
    aggregation: str
    denoise_steps: int
    action_bound: float | None
    time_precision: Precision


Chain = Callable[[GuidedFlow, Array, Array, Any], tuple[Array, ...]]
"""(flow, obs (B, O), noise (B, D), weight () or (B, 1)) → the arrays wanted."""


def record(shape: Shape, chain: Chain) -> Program:
    """The program of `chain` on flows of that shape. Raises NotRecordable."""
    recorder = _Recorder(shape)
    obs, weight = np.zeros((1, 0)), np.ones((1, 1))
    recorder.obs, recorder.weight = obs, weight
    noise = recorder.arbitrary(shape.action_dim)
    recorder.define(noise, Kind.ACTION)
    flow = GuidedFlow(
        _Field(recorder),
        _Critic(recorder),
        shape.denoise_steps,
        shape.action_bound,
        shape.time_precision,
        recorder,
    )
    try:
        results = tuple(recorder.value(array) for array in chain(flow, obs, noise, weight))
    except (AttributeError, TypeError, ValueError) as error:
        # it asked the stand-ins for what only networks have, or wrote into a recorded array
        raise NotRecordable(str(error)) from error
    return Program(
        tuple(recorder.instructions), tuple(recorder.kinds), tuple(recorder.times), results
    )


@dataclass
class _Recorder:
    """A `Kernels` that knows the operations between the networks, and the networks' scribe."""

    shape: Shape
    obs: Array = field(init=False)
    weight: Array = field(init=False)
    instructions: list[Instruction] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    known: dict[int, tuple[int, Any]] = field(default_factory=dict)
    """id of an array → its value, and the array itself so that the id stays taken."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def arbitrary(self, columns: int) -> Array:
        return self.rng.uniform(-0.1, 0.1, (1, columns))

    def define(self, array: Any, kind: Kind) -> int:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
        self.kinds.append(kind)
        self.known[id(array)] = len(self.kinds) - 1, array
        return len(self.kinds) - 1

    def value(self, array: Any) -> int:
        found = self.known.get(id(array))
        if found is None:
            raise NotRecordable("an array that no recorded operation returned")
        return found[0]

    def require(self, array: Any, kind: Kind) -> None:
        if self.kinds[self.value(array)] != kind:
            raise NotRecordable(f"a value that is not of kind {kind.name}")

    def note(
        self,
        op: Op,
        inputs: tuple[tuple[Any, Kind], ...],
        outputs: tuple[tuple[Any, Kind], ...],
        **rest: Any,
    ) -> None:
        read = tuple(self.value(array) for array, _ in inputs)
        if any(self.kinds[i] != kind for i, (_, kind) in zip(read, inputs)):
            raise NotRecordable(f"{op.name} of other values than the interpreter's")
        made = tuple(self.define(array, kind) for array, kind in outputs)
        self.instructions.append(Instruction(op, read, made, **rest))

    def time_index(self, time: Any) -> int:
        if not isinstance(time, float):
            raise NotRecordable("a flow time that differs between rows")
        if time not in self.times:
            self.times.append(time)
        return self.times.index(time)

    def __call__(self, primitive: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        known = _PRIMITIVES.get(primitive)
        if known is None or kwargs:
            raise NotRecordable(f"the operation {primitive.__name__}")
        returned = primitive(*args, **kwargs)
        known(self, args, returned)
        return returned


def _axpy(recorder: _Recorder, args: tuple[Any, ...], z: Array) -> None:
    scale, x, y = args
    both, out = ((x, Kind.ACTION), (y, Kind.ACTION)), ((z, Kind.ACTION),)
    if scale is recorder.weight:
        recorder.note(Op.AXPY_WEIGHT, both, out)
    else:
        recorder.note(Op.AXPY, both, out, number=_number(scale))


def _scaled(recorder: _Recorder, args: tuple[Any, ...], y: Array) -> None:
    scale, x = args
    recorder.note(Op.SCALE, ((x, Kind.ACTION),), ((y, Kind.ACTION),), number=_number(scale))


def _clip(recorder: _Recorder, args: tuple[Any, ...], returned: Any) -> None:
    x, bound = args  # with its kink left at the default
    y, cache = returned
    outputs = (y, Kind.ACTION), (cache.slope, Kind.ACTION)
    recorder.note(Op.CLIP, ((x, Kind.ACTION),), outputs, number=_number(bound))


def _clip_vjp(recorder: _Recorder, args: tuple[Any, ...], x_bar: Array) -> None:
    y_bar, cache = args
    inputs = (y_bar, Kind.ACTION), (cache.slope, Kind.ACTION)
    recorder.note(Op.MULTIPLY, inputs, ((x_bar, Kind.ACTION),))


def _reduce(recorder: _Recorder, args: tuple[Any, ...], returned: Any) -> None:
    q, aggregation = args  # with ties split, the default
    y, cache = returned
    op = Op.REDUCE_MIN if aggregation == "min" else Op.REDUCE_MEAN
    recorder.note(op, ((q, Kind.MEMBERS),), ((y, Kind.SCALAR), (cache.weight, Kind.MEMBERS)))


def _reduce_vjp(recorder: _Recorder, args: tuple[Any, ...], q_bar: Array) -> None:
    y_bar, cache = args
    inputs = (y_bar, Kind.SCALAR), (cache.weight, Kind.MEMBERS)
    recorder.note(Op.SHARE, inputs, ((q_bar, Kind.MEMBERS),))


def _ones(recorder: _Recorder, args: tuple[Any, ...], q_bar: Array) -> None:
    (q,) = args
    recorder.require(q, Kind.SCALAR)
    recorder.note(Op.FILL, (), ((q_bar, Kind.SCALAR),), number=1.0)


def _zeros(recorder: _Recorder, args: tuple[Any, ...], z: Array) -> None:
    (like,) = args
    recorder.require(like, Kind.ACTION)
    recorder.note(Op.FILL, (), ((z, Kind.ACTION),), number=0.0)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise NotRecordable("a factor that is not one number")
    return float(value)


_PRIMITIVES: dict[Callable[..., Any], Callable[[_Recorder, tuple[Any, ...], Any], None]] = {
    axpy: _axpy,
    scaled: _scaled,
    clip: _clip,
    clip_vjp: _clip_vjp,
    ensemble_reduce: _reduce,
    ensemble_reduce_vjp: _reduce_vjp,
    batch_sum_vjp: _ones,
    zeros: _zeros,
}


class _Saved:
    """Stands for what a forward saved."""


@dataclass(frozen=True)
class _Field:
    """A velocity field that answers anything and writes down the question."""

    recorder: _Recorder
    obs_dim = 0
    dtype = np.dtype(np.float64)

    @property
    def action_dim(self) -> int:
        return self.recorder.shape.action_dim

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        _require(obs is self.recorder.obs)
        index = self.recorder.time_index(time)
        v, saved = self.recorder.arbitrary(self.action_dim), _Saved()
        outputs = (v, Kind.ACTION), (saved, Kind.SAVED_FIELD)
        self.recorder.note(Op.FORWARD, ((action, Kind.ACTION),), outputs, network=FIELD, time=index)
        return v, saved

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        raise NotRecordable("a jvp of the field")

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        a_bar = self.recorder.arbitrary(self.action_dim)
        inputs = (velocity_bar, Kind.ACTION), (cache, Kind.SAVED_FIELD)
        self.recorder.note(Op.VJP, inputs, ((a_bar, Kind.ACTION),), network=FIELD)
        return a_bar


@dataclass(frozen=True)
class _Critic:
    """A critic that answers anything and writes down the question."""

    recorder: _Recorder

    @property
    def aggregation(self) -> str:
        return self.recorder.shape.aggregation

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        _require(obs is self.recorder.obs)
        q = self.recorder.arbitrary(self.recorder.shape.members).reshape(-1, 1)
        saved = _Saved()
        outputs = (q, Kind.MEMBERS), (saved, Kind.SAVED_CRITIC)
        self.recorder.note(Op.FORWARD, ((action, Kind.ACTION),), outputs, network=CRITIC)
        return q, saved

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        raise NotRecordable("a jvp of the critic")

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        a_bar = self.recorder.arbitrary(self.recorder.shape.action_dim)
        inputs = (q_bar, Kind.MEMBERS), (cache, Kind.SAVED_CRITIC)
        self.recorder.note(Op.VJP, inputs, ((a_bar, Kind.ACTION),), network=CRITIC)
        return a_bar

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        raise NotRecordable("a Hessian-vector product of the critic")


def _require(same_observations: bool) -> None:
    if not same_observations:
        raise NotRecordable("a network asked at other observations than the sampler's")
