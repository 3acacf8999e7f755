"""Dense blocks on the stand-in for a GPU: the kernels of many rows, run for real on the CPU."""

from __future__ import annotations

from types import ModuleType

import pytest

from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.dense import DenseRule
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import BLOCKS, dense_block
from tests.helpers.gpu.on_cpu import ORDERS

ERROR = 2e-13
"""Measured 4.5e-14, of LayerNorm's Hessian product with one row of one column."""


@pytest.mark.parametrize("norm", ["first", "after", "none"])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_and_its_products(gpu: ModuleType, block: tuple[object, ...], norm: str) -> None:
    members, own, *sizes = block
    for activation in ("gelu", None):
        for variance in ("fast", "two_pass"):
            rule = DenseRule(activation, 1e-3, variance, norm == "after")
            error = dense_block(members, own, tuple(sizes), rule, norm != "none")  # type: ignore[arg-type]
            assert error < ERROR


def test_float32(gpu: ModuleType) -> None:
    """Measured 2.4e-6 of 2e5 roundings: that is the reference's own error, too."""
    for block in BLOCKS:
        members, own, *sizes = block
        assert dense_block(members, own, tuple(sizes), DenseRule("gelu"), True, "float32") < 1e-5  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(gpu: ModuleType, activation: str) -> None:
    for norm, after in ((True, False), (True, True), (False, False)):
        rule = DenseRule(activation, norm_after_activation=after)
        assert dense_block((2,), False, (9, 5, 6), rule, norm) < ERROR


def test_the_order_of_threads_changes_no_bit(gpu: ModuleType) -> None:
    """What a missing barrier would let through."""
    errors = set()
    for order in ORDERS:
        stand_in.settings.order = order
        errors.add(dense_block((2,), True, (9, 5, 40), DenseRule("gelu"), True))
    assert len(errors) == 1
