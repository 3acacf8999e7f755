"""FLOPs and weight bytes: against what the reference really multiplies, and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qgf_ref.bench.counts import Count, count, total_products
from qgf_ref.denoising import GradientSteps
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products
from qgf_ref.guidance.queries import critic_curvature
from qgf_ref.guidance.registry import EstimatorLike, learned_estimator_names
from qgf_ref.guidance.registry import estimator as estimator_by_name
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


COUNTED = [n for n in learned_estimator_names() if estimator_by_name(n).auxiliary is None]


class Bent(Estimator):
    """A stand-in that asks for the critic's curvature."""

    name = "bent"
    summary = "∇²Q(s, a_t)∇Q(s, a_t)"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance, curvature = critic_curvature(flow, step.obs, step.action)
        return Guidance(curvature.product(guidance.gradient))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        return Products(critic_forward=1, critic_vjp=1, critic_hvp=1)


@pytest.mark.parametrize("estimator", [*COUNTED, Bent()], ids=lambda e: getattr(e, "name", e))
def test_the_nominal_count_is_what_the_reference_multiplies(estimator: EstimatorLike) -> None:
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


def test_the_necessary_count_of_a_curvature_by_hand() -> None:
    ck = small_checkpoint(obs_dim=5, action_dim=3, hidden=(11, 10), steps=4)
    counts = count(ck, Bent(), 1)
    assert counts is not None
    policy, critic, inner = 3 * 11 + 110 + 10 * 3, 3 * 11 + 110 + 10, 110 + 10
    once = 5 * 11 + 2 * 5 * 11
    # v, both members' Q, one member's vjp; of its hvp a jvp, x_bar_dot, and x_bar but for layer 0
    step = policy + 2 * critic + critic + 2 * critic + inner
    assert counts.necessary.flops == 2 * (once + 4 * step)


@pytest.mark.parametrize(("draws", "climbs"), [(1, 3), (4, 0), (2, 5)])
def test_what_follows_the_flow_is_counted(draws: int, climbs: int) -> None:
    ck = small_checkpoint(dtype="float32", steps=4)
    obs, noise = states(ck, 3 * draws)
    kernels = Multiplied()
    steps = GradientSteps(climbs) if climbs else None
    sample(
        ck.guided_flow(kernels=kernels),
        obs[:3],
        weight=0.1,
        noise=noise,
        best_of=draws,
        gradient_steps=steps,
    )
    counts = count(ck, "qgf", 3, best_of=draws, gradient_steps=climbs)
    assert counts is not None
    assert counts.nominal == Count(kernels.flops, kernels.weight_bytes)


def test_candidates_share_the_observation() -> None:
    ck = small_checkpoint(obs_dim=5, action_dim=3, hidden=(11,), members=2, steps=4)
    counts = count(ck, "none", 2, best_of=3)
    assert counts is not None
    shared, chain = 5 * 11 + 2 * 5 * 11, 4 * (3 * 11 + 11 * 3) + 2 * (3 * 11 + 11)
    assert counts.necessary.flops == 2 * 2 * (shared + 3 * chain)


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
