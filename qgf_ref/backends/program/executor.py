"""The living definition of the instructions: a program, run in NumPy on the flow's own networks.

Slow, and asked by nobody but tests: every other interpreter is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import NOISE, WEIGHT, Instruction, Kind, Op, Program
from qgf_ref.backends.program.record import Actor, networks_of
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops import row_numbers
from qgf_ref.ops.activations import sigmoid
from qgf_ref.ops.clip import clip
from qgf_ref.ops.ensemble import ensemble_reduce
from qgf_ref.ops.structure import kept


def execute(
    program: Program,
    flow: GuidedFlow | Actor,
    obs: Array,
    noise: Array,
    weight: float | Array = 0.0,
) -> tuple[Array, ...]:
    """The results: ACTION (B, D), MEMBERS (E, B), SCALAR (B,). obs (B, O), noise (B, D)."""
    values: dict[int, Any] = {
        NOISE: noise,
        WEIGHT: np.broadcast_to(np.asarray(weight, noise.dtype), (len(noise), 1)),
    }
    for step in program.instructions:
        kinds = [program.kinds[value] for value in step.outputs]
        inputs = [values[value] for value in step.inputs]
        if step.op <= Op.HVP:
            outputs = _network(step, networks_of(flow)[step.network], obs, inputs)
        elif step.op == Op.FILL:
            columns = noise.shape[1] if kinds[0] == Kind.ACTION else 1
            outputs = (np.full((len(noise), columns), step.numbers[0]),)
        elif step.op == Op.DRAW:
            outputs = (flow.z[int(step.numbers[0])],)  # type: ignore[union-attr]
        else:
            outputs = _RULES[step.op](*inputs, *step.numbers)
        for value, kind, output in zip(step.outputs, kinds, outputs, strict=True):
            values[value] = _shaped(output, kind, noise.dtype)
    columns = (values[value] for value in program.results)
    return tuple(
        array[:, 0] if program.kinds[value] == Kind.SCALAR else array
        for value, array in zip(program.results, columns, strict=True)
    )


def _network(step: Instruction, network: Any, obs: Array, inputs: list[Any]) -> tuple[Any, ...]:
    if step.op == Op.FORWARD:
        action, *time = inputs
        result: tuple[Any, ...] = network.forward(
            obs, action, *(t[:, 0] for t in time), *step.numbers
        )
        return result
    *arrays, cache = inputs
    if step.op == Op.JVP:
        return (network.jvp(*arrays, cache),)
    # a network with one member takes a number a row, not a column
    arrays[-1] = arrays[-1] if hasattr(network, "action_dim") else _rows(arrays[-1], network)
    return ((network.vjp if step.op == Op.VJP else network.hvp)(*arrays, cache),)


def _rows(y_bar: Array, network: Any) -> Array:
    return y_bar if hasattr(network, "aggregation") else y_bar[:, 0]


def _shaped(output: Any, kind: int, dtype: Any) -> Any:
    """Numbers of rows as columns, arrays in the program's dtype; what is saved as it is."""
    if kind >= len(Kind):
        return output
    array = np.asarray(output).astype(dtype, copy=False)
    return array.reshape(-1, 1) if kind == Kind.SCALAR else array


def _reduced(aggregation: str) -> Callable[..., tuple[Array, Array]]:
    def reduce(q: Array) -> tuple[Array, Array]:
        y, cache = ensemble_reduce(q, aggregation)
        return y, cache.weight

    return reduce


def _clipped(x: Array, bound: float) -> tuple[Array, Array]:
    y, cache = clip(x, bound)
    return y, cache.slope


def _nearest(s: Array, *numbers: float) -> tuple[Array]:
    half = len(numbers) // 2
    return (row_numbers.nearest(s, numbers[:half], numbers[half:]),)


_RULES: dict[Op, Callable[..., tuple[Any, ...]]] = {
    Op.AXPY: lambda x, y, number: (y + number * x,),
    Op.AXPY_ROW: lambda x, y, s: (y + s * x,),
    Op.SCALE: lambda x, number: (number * x,),
    Op.SCALE_ROW: lambda x, s: (s * x,),
    Op.DIVIDE: lambda x, s, y: (row_numbers.divided(x, s, y),),
    Op.ROW_DOT: lambda x, y: (row_numbers.row_dot(x, y),),
    Op.RATIO: lambda s, other: (row_numbers.ratio(s, other),),
    Op.CLIP: _clipped,
    Op.MULTIPLY: lambda x, y: (x * y,),
    Op.REDUCE_MIN: _reduced("min"),
    Op.REDUCE_MEAN: _reduced("mean"),
    Op.SHARE: lambda s, shares: (s[:, 0] * shares,),
    Op.WHERE_POSITIVE: lambda x, y: (row_numbers.where_positive(x, y),),
    Op.PLUS: lambda x, number: (x + number,),
    Op.AT_LEAST: lambda x, number: (np.maximum(x, number),),
    Op.NEAREST: _nearest,
    Op.ROOT: lambda x: (row_numbers.root(x),),
    Op.SIGMOID: lambda x: (sigmoid(x),),
    Op.KEEP: lambda x, *numbers: (kept(x, tuple(map(int, numbers))),),
}
