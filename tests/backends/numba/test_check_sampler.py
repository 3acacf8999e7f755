"""The cross-check passes the compiled sampler, and finds what is planted in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.numba import sampler
from qgf_ref.backends.numba.kernels.rows import CODES
from qgf_ref.backends.numba.weights import (
    ACTIVATION,
    DEPTH,
    FIRST_LAYER,
    KERNEL,
    TRANSPOSE,
    Weights,
)
from qgf_ref.backends.program import remembered
from qgf_ref.backends.program.program import CRITIC, FIELD, Instruction, Op, Program
from qgf_ref.backends.program.registers import Code
from qgf_ref.sampling import sample
from qgf_ref.testing import CrossCheckError, SamplerReport, check_sampler
from tests.crosscheck.ports import lively
from tests.helpers.some import some

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def teams_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """On networks as small as these, too; up to 32 rows."""
    monkeypatch.setattr(sampler, "TEAM_BYTES", 0)


def port(
    checkpoint: Checkpoint, estimator: str = "qgf", threads: int = 2
) -> Callable[[Array, Array, float], Array]:
    """The compiled sampler as anybody's port: float32, only the actions come back."""
    # new arrays: programs and packed weights are remembered by the parameters' identity
    flow = checkpoint.astype("float64").astype("float32").guided_flow(embedding="float32")

    def call(obs: Array, noise: Array, weight: float) -> Array:
        return sample(
            flow, obs, estimator=estimator, weight=weight, noise=noise,
            best_of=len(noise) // len(obs), backend="numba", threads=threads,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("rows", some([70, 1, 8], 1))
@pytest.mark.parametrize("estimator", some(["qgf_jacobian", "qgf", "bptt"], 1))
def test_the_compiled_sampler_passes(estimator: str, rows: int) -> None:
    checkpoint = lively()
    report = check_sampler(
        port(checkpoint, estimator),
        checkpoint,
        estimator=estimator,
        rows=rows,
        best_of=4,
        build=lambda nets: port(nets, estimator),
        coverage=False,
    )
    assert report.agrees


def instructions(change: Callable[[Instruction], Instruction]) -> Plant:
    """Every program is changed, one instruction after another."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        record = remembered.record

        def changed(*args: Any) -> Program:
            program = record(*args)
            return replace(program, instructions=tuple(map(change, program.instructions)))

        monkeypatch.setattr(remembered, "record", changed)

    return plant


def packing(change: Callable[[Weights], object]) -> Plant:
    """All packed weights are changed in place."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        gather = sampler.compiled_sampler.pack

        def changed(*args: Any) -> Weights:
            packed = gather(*args)
            change(packed)
            return packed

        monkeypatch.setattr(sampler.compiled_sampler, "pack", changed)

    return plant


def times(change: Callable[[tuple[float, ...]], tuple[float, ...]]) -> Plant:
    """The time constants are those of other times."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        constants = sampler.time_constants

        def changed(networks: Any, code: Code, wide: int) -> Array:
            asked = tuple(network for network, _ in code.times)
            others = change(tuple(time for _, time in code.times))
            return constants(networks, replace(code, times=tuple(zip(asked, others))), wide)

        monkeypatch.setattr(sampler, "time_constants", changed)

    return plant


def unclipped(each: Instruction) -> Instruction:
    return each._replace(numbers=(1e30,)) if each.op == Op.CLIP else each


def full_step(each: Instruction) -> Instruction:
    return each._replace(numbers=(1.0,)) if each.op == Op.AXPY else each


def mean(each: Instruction) -> Instruction:
    return each._replace(op=Op.REDUCE_MEAN) if each.op == Op.REDUCE_MIN else each


def weight_of_one(each: Instruction) -> Instruction:
    if each.op != Op.AXPY_ROW:
        return each
    return each._replace(op=Op.AXPY, inputs=each.inputs[:2], numbers=(1.0,))


def slope_ignored(each: Instruction) -> Instruction:
    if each.op != Op.MULTIPLY:
        return each
    return each._replace(op=Op.SCALE, inputs=each.inputs[:1], numbers=(1.0,))


def no_observation_bias(packed: Weights) -> None:
    packed.flat[packed.pre_bias : packed.pre_bias + packed.sizes.pre] = 0


def members_exchanged_backwards(packed: Weights) -> None:
    """Each member's cotangent is taken back through the other one."""
    first, depth = packed.networks[CRITIC, FIRST_LAYER], packed.networks[CRITIC, DEPTH]
    pair = slice(first, first + depth - 1), slice(first + depth, first + 2 * depth - 1)
    a, b = (packed.layers[rows, TRANSPOSE].copy() for rows in pair)
    packed.layers[pair[0], TRANSPOSE], packed.layers[pair[1], TRANSPOSE] = b, a


def first_member_twice(packed: Weights) -> None:
    """Member 1's tables are member 0's."""
    first, depth = packed.networks[CRITIC, FIRST_LAYER], packed.networks[CRITIC, DEPTH]
    packed.layers[first + depth : first + 2 * depth] = packed.layers[first : first + depth]


def layer_transposed_wrongly(packed: Weights) -> None:
    """One product of the vjp uses W where Wᵀ belongs."""
    row = packed.layers[packed.networks[CRITIC, FIRST_LAYER] + 1]
    row[TRANSPOSE] = row[KERNEL]


def relu_in_the_policy(packed: Weights) -> None:
    packed.networks[FIELD, ACTIVATION] = CODES["relu"]


def another_epsilon(packed: Weights) -> None:
    packed.eps[:] = 1e-5


PLANTED: list[tuple[str, Plant, str, tuple[str, ...]]] = [
    ("times one step on", times(lambda t: tuple(x + 1 / len(t) for x in t)), "qgf", ("grid-next",)),
    ("times one step on", times(lambda t: tuple(x + 1 / len(t) for x in t)), "bptt",
     ("grid-next",)),
    ("times in reverse", times(lambda t: t[::-1]), "qgf", ()),
    ("one time for all steps", times(lambda t: t[:1] * len(t)), "qgf_jacobian", ()),
    ("no clip", instructions(unclipped), "qgf", ("query-unclipped", "final-clip-missing")),
    ("whole steps", instructions(full_step), "qgf", ()),
    ("mean of members", instructions(mean), "qgf", ("ensemble-mean",)),
    ("weight ignored", instructions(weight_of_one), "qgf", ("weight-default-1",)),
    ("clip's slope ignored", instructions(slope_ignored), "qgf_jacobian",
     ("gradient-jacobian-unmasked",)),
    ("clip's slope ignored", instructions(slope_ignored), "bptt", ()),
    ("observations without bias", packing(no_observation_bias), "qgf", ()),
    ("members exchanged", packing(members_exchanged_backwards), "qgf", ()),
    ("one member for both", packing(first_member_twice), "qgf", ("ensemble-member-0",)),
    ("W for its transpose", packing(layer_transposed_wrongly), "qgf", ()),
    ("another activation", packing(relu_in_the_policy), "qgf", ("activation-relu",)),
    ("another epsilon", packing(another_epsilon), "qgf", ("layer-norm-eps-1e-5",)),
]  # fmt: skip
"""What is wrong, how it is planted, for which estimator, and what the bank calls it: () where it
has no name for it.
"""


@pytest.mark.parametrize(
    ("plant", "estimator", "named"),
    some([pytest.param(*rest, id=f"{name}, {rest[1]}") for name, *rest in PLANTED], 1),
)
def test_what_is_planted_is_found(
    plant: Plant, estimator: str, named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    checkpoint = lively()
    with pytest.raises(CrossCheckError) as caught:
        check_sampler(
            port(checkpoint, estimator),
            checkpoint,
            estimator=estimator,
            rows=8,
            build=lambda nets: port(nets, estimator),
            coverage=False,
        )
    report = caught.value.report
    assert isinstance(report, SamplerReport)
    assert [e.names for e in report.diagnosis.explanations] == ([named] if named else [])
