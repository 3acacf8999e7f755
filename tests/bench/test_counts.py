"""FLOPs and weight bytes: against what the reference really multiplies, and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qgf_ref.bench.counts import Count, count, total_products
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow, Products
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.ops.linear import linear, linear_jvp, linear_vjp
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint, states


class Multiplied:
    """Kernels that count the matrix products which they run."""

    def __init__(self) -> None:
        self.flops = self.weight_bytes = 0

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        if primitive in (linear, linear_vjp, linear_jvp):
            kernel = args[1] if primitive is linear else args[1].kernel
            self.flops += 2 * args[0].shape[-2] * kernel.size
            self.weight_bytes += kernel.nbytes
        return primitive(*args, **kwargs)


@pytest.mark.parametrize("estimator", learned_estimator_names())
def test_the_nominal_count_is_what_the_reference_multiplies(estimator: str) -> None:
    ck = small_checkpoint(dtype="float32", steps=4)
    obs, noise = states(ck, 7)
    kernels = Multiplied()
    flow = ck.guided_flow(kernels=kernels)
    sample(flow, obs, estimator=estimator, weight=0.1, noise=noise)
    counts = count(ck, estimator, 7)
    assert counts is not None
    assert counts.nominal == Count(kernels.flops, kernels.weight_bytes)


@pytest.mark.parametrize(
    ("aggregation", "rows", "members_per_row", "members_touched"),
    [("min", 1, 1, 1), ("min", 2, 1, 2), ("min", 9, 1, 3), ("mean", 1, 3, 3)],
)
def test_the_necessary_count_by_hand(
    aggregation: str, rows: int, members_per_row: int, members_touched: int
) -> None:
    ck = small_checkpoint(
        obs_dim=5, action_dim=3, hidden=(11, 10), members=3, aggregation=aggregation, steps=4
    )
    counts = count(ck, "qgf_jacobian", rows)
    assert counts is not None
    # (action × 11 + 11 × 10 + 10 × out); of the observation 5 × 11, once
    policy, critic = 3 * 11 + 110 + 10 * 3, 3 * 11 + 110 + 10
    once = 5 * 11 + 3 * 5 * 11
    forward = 4 * (2 * policy + 3 * critic)
    assert counts.necessary.flops == 2 * rows * (once + forward + 4 * members_per_row * critic)
    assert counts.necessary.weight_bytes == 8 * (once + forward + 4 * members_touched * critic)
    assert counts.necessary.flops < counts.nominal.flops


def test_without_guidance_no_critic_is_read() -> None:
    ck = small_checkpoint(obs_dim=5, action_dim=3, hidden=(11,), steps=4)
    counts = count(ck, "none", 2)
    assert counts is not None
    assert counts.necessary.flops == 2 * 2 * (5 * 11 + 4 * (3 * 11 + 11 * 3))


def test_other_steps() -> None:
    ck = small_checkpoint(steps=4)
    fewer = replace(ck, options=replace(ck.options, denoise_steps=3))
    assert count(ck, "bptt", 2, 3) == count(fewer, "bptt", 2)
    assert total_products(fewer, "bptt") == Products(3 + 2 + 1 + 0, 0, 3 + 2 + 1, 3, 0, 3)


def test_an_estimator_that_does_not_say() -> None:
    def mine(flow: GuidedFlow, step: DenoisingStep) -> Any:
        return step.action

    assert count(small_checkpoint(), mine, 2) is None
