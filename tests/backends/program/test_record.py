"""The recording: all that the estimator states, nothing that it hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.layout import Sizes, lay_out
from qgf_ref.backends.program.executor import execute
from qgf_ref.backends.program.program import CRITIC, FIELD, NOISE, WEIGHT, Kind, Op, Program, saved
from qgf_ref.backends.program.record import networks_of, record
from qgf_ref.backends.program.recorder import NotRecordable
from qgf_ref.backends.program.registers import IN_0, OP, OUT_0, assign
from qgf_ref.denoising import denoise, denoising_step
from qgf_ref.guidance.base import GuidedFlow, Products
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.nets.critic import RobustCritic
from qgf_ref.ops.structure import axpy
from tests.conftest import small_checkpoint, states

FLOW = small_checkpoint(1, steps=7).flow
RECORDED = [name for name in learned_estimator_names() if estimator(name).recordable]


def program(name: str) -> Program:
    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> tuple[Array, ...]:
        return (denoise(flow, obs, noise, estimator(name), weight),)

    return record(estimator(name).on(FLOW), chain)


@pytest.mark.parametrize("name", RECORDED)
def test_the_program_has_the_products_that_the_estimator_states(name: str) -> None:
    """And one field forward at every step, the sampler's own."""
    flow = estimator(name).on(FLOW)
    asked = Products()
    for instruction in program(name).instructions:
        if instruction.op <= Op.HVP:
            critic = hasattr(networks_of(flow)[instruction.network], "aggregation")
            critic |= isinstance(networks_of(flow)[instruction.network], RobustCritic)
            kind = f"{'critic' if critic else 'field'}_{instruction.op.name.lower()}"
            asked = asked + Products(**{kind: 1})
    stated = Products(field_forward=flow.denoise_steps)
    for index in range(flow.denoise_steps):
        stated = stated + (estimator(name).products(flow, index) or Products())
    assert asked == stated


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


def time_of_a_row_that_is_not_one_number(
    flow: GuidedFlow, obs: Array, noise: Array, weight: Array
) -> Any:
    return (flow.field.forward(obs, noise, noise)[0],)


def a_jvp(flow: GuidedFlow, obs: Array, noise: Array, weight: Array) -> Any:
    return (flow.critic.jvp(noise, flow.critic.forward(obs, noise)[1]),)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (behind_the_back, "an array that no recorded operation returned"),
        (result_unknown, "an array that no recorded operation returned"),
        (other_observations, "other observations"),
        (unknown_primitive, "the operation negative"),
        (row_times, "an array that no recorded operation returned"),
        (time_of_a_row_that_is_not_one_number, "FORWARD of other values"),
        (a_jvp, "a jvp of a critic"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_program_cannot_say_is_refused(chain: Chain, message: str) -> None:
    with pytest.raises(NotRecordable, match=message):
        record(FLOW, chain)


def test_what_several_ask_for_is_one_instruction() -> None:
    """Estimators of one step share v, its estimate and ∇Q there; what they answer stays theirs."""
    names = "qgf", "qgf_masked", "qgf_jacobian", "qgf_jacobian_unmasked"

    def chain(flow: GuidedFlow, obs: Array, action: Array, weight: Array) -> tuple[Array, ...]:
        step = denoising_step(flow, obs, action, 2, weight)
        return tuple(estimator(name)(flow, step).gradient for name in names)

    together = record(FLOW, chain)
    assert len({i[:2] + i[3:] for i in together.instructions}) == len(together.instructions)
    asked = [(i.op, i.network) for i in together.instructions if i.op <= Op.HVP]
    once = (Op.FORWARD, FIELD), (Op.FORWARD, CRITIC), (Op.VJP, CRITIC)
    assert sorted(asked) == sorted([*once, (Op.VJP, FIELD), (Op.VJP, FIELD)])
    obs, action = states(small_checkpoint(1), 5)
    weight = np.ones((5, 1))
    expected = chain(FLOW, obs, action, weight)
    for ours, theirs in zip(execute(together, FLOW, obs, action, weight), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", RECORDED)
def test_no_register_is_overwritten_while_its_value_is_needed(name: str) -> None:
    recorded = program(name)
    code = assign(recorded)
    holds: dict[int, int] = {0: NOISE, 1: WEIGHT}
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
    assert len(code.registers) < 12 + 2 * FLOW.denoise_steps  # reused, not one for each value


def test_places_do_not_overlap() -> None:
    code = assign(program("bptt"))
    sizes = Sizes(
        action=16, members=(1, 2), hidden=((5, 6), (7, 8)), saved=(24, 32), wide=24, pre=48
    )
    rows = 3
    layout = lay_out(code, sizes, rows, 8)
    extent = {
        Kind.ACTION: rows * 16,
        Kind.MEMBERS: rows * 2,
        Kind.SCALAR: rows,
        saved(FIELD): rows * (2 * 5 + 1 + 2 * 6 + 1),
        saved(CRITIC): 2 * rows * (2 * 7 + 1 + 2 * 8 + 1),
    }
    spans = [(int(at), extent[kind]) for at, kind in zip(layout.registers, code.registers)]
    spans += [(layout.x, rows * 24), (layout.z, rows * 24), (layout.scratch, 4 * 24)]
    spans += [(layout.pre, rows * 48)]
    ends = [0] + [at + size for at, size in sorted(spans)]
    for (at, _), end in zip(sorted(spans), ends):
        assert at >= end and at % 8 == 0
    assert layout.size >= ends[-1]
