"""The recording: all that the estimator states, nothing that it hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.layout import IN_0, OP, OUT_0, Sizes, assign, lay_out
from qgf_ref.backends.program.program import CRITIC, FIELD, Kind, Op, Program
from qgf_ref.backends.program.record import NotRecordable, Shape, record
from qgf_ref.denoising import denoise
from qgf_ref.guidance.base import GuidedFlow, Products
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.ops.structure import axpy

SHAPE = Shape(3, 2, "min", 7, 1.0, "exact")
RECORDED = [name for name in learned_estimator_names() if estimator(name).recordable]


def program(name: str) -> Program:
    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> tuple[Array, ...]:
        return (denoise(flow, obs, noise, estimator(name), weight),)

    return record(SHAPE, chain)


@pytest.mark.parametrize("name", RECORDED)
def test_the_program_has_the_products_that_the_estimator_states(name: str) -> None:
    """And one field forward at every step, the sampler's own."""
    found = {(op, network): 0 for op in (Op.FORWARD, Op.VJP) for network in (FIELD, CRITIC)}
    for instruction in program(name).instructions:
        if instruction.op in (Op.FORWARD, Op.VJP):
            found[instruction.op, instruction.network] += 1
    flow: Any = _Steps(SHAPE.denoise_steps)
    stated = Products(field_forward=SHAPE.denoise_steps)
    for index in range(SHAPE.denoise_steps):
        stated = stated + (estimator(name).products(flow, index) or Products())
    assert found == {
        (Op.FORWARD, FIELD): stated.field_forward,
        (Op.VJP, FIELD): stated.field_vjp,
        (Op.FORWARD, CRITIC): stated.critic_forward,
        (Op.VJP, CRITIC): stated.critic_vjp,
    }
    assert stated.field_jvp == stated.critic_jvp == 0


class _Steps:
    """All that `Estimator.products` asks of a flow."""

    def __init__(self, denoise_steps: int) -> None:
        self.denoise_steps = denoise_steps


Chain = Callable[[GuidedFlow, Array, Array, Array], tuple[Array, ...]]


def behind_the_back(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (flow.kernels(axpy, 0.5, noise * 2, noise),)


def result_unknown(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (noise + 1,)


def other_observations(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (critic_gradient(flow, obs.copy(), noise).gradient,)


def unknown_primitive(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (flow.kernels(np.negative, noise),)


def row_times(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (flow.field.forward(obs, noise, np.zeros(1))[0],)


def a_jvp(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (flow.critic.jvp(noise, flow.critic.forward(obs, noise)[1]),)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (behind_the_back, "an array that no recorded operation returned"),
        (result_unknown, "an array that no recorded operation returned"),
        (other_observations, "other observations"),
        (unknown_primitive, "the operation negative"),
        (row_times, "a flow time that differs between rows"),
        (a_jvp, "a jvp of the critic"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_program_cannot_say_is_refused(chain: Chain, message: str) -> None:
    with pytest.raises(NotRecordable, match=message):
        record(SHAPE, chain)


@pytest.mark.parametrize("name", RECORDED)
def test_no_register_is_overwritten_while_its_value_is_needed(name: str) -> None:
    recorded = program(name)
    code = assign(recorded)
    holds: dict[int, int] = {0: 0}
    for row, instruction in zip(code.table, recorded.instructions, strict=True):
        assert row[OP] == instruction.op
        read = [int(r) for r in row[IN_0 : IN_0 + len(instruction.inputs)]]
        assert [holds[r] for r in read] == list(instruction.inputs)
        for value, register in zip(instruction.outputs, row[OUT_0:]):
            if register >= 0:
                assert int(register) not in read
                assert code.registers[register] == recorded.kinds[value]
                holds[int(register)] = value
    assert [holds[r] for r in code.results] == list(recorded.results)
    assert len(code.registers) < 12 + 2 * SHAPE.denoise_steps  # reused, not one for each value


def test_places_do_not_overlap() -> None:
    code = assign(program("bptt"))
    sizes = Sizes(action=16, members=2, hidden=((5, 6), (7, 8)), wide=24, pre=48)
    rows = 3
    layout = lay_out(code, sizes, rows, 8)
    extent = {
        Kind.ACTION: rows * 16,
        Kind.MEMBERS: rows * 2,
        Kind.SCALAR: rows,
        Kind.SAVED_FIELD: rows * (2 * 5 + 1 + 2 * 6 + 1),
        Kind.SAVED_CRITIC: 2 * rows * (2 * 7 + 1 + 2 * 8 + 1),
    }
    spans = [(int(at), extent[kind]) for at, kind in zip(layout.registers, code.registers)]
    spans += [(layout.x, rows * 24), (layout.z, rows * 24), (layout.scratch, 4 * 24)]
    spans += [(layout.pre, rows * 48)]
    ends = [0] + [at + size for at, size in sorted(spans)]
    for (at, _), end in zip(sorted(spans), ends):
        assert at >= end and at % 8 == 0
    assert layout.size >= ends[-1]
