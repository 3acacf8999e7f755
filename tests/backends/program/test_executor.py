"""The NumPy executor: the program of every estimator is the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.program.executor import execute
from qgf_ref.backends.program.record import record
from qgf_ref.denoising import GradientSteps, candidates, denoise
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from tests.conftest import small_checkpoint

RECORDED = [name for name in learned_estimator_names() if estimator(name).recordable]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RECORDED)
def test_the_program_is_the_loop(name: str, dtype: str) -> None:
    """Measured: the same bits, but for weights of a row in float32 (6e-8)."""
    guide = estimator(name)
    flow = guide.on(small_checkpoint(1, dtype=dtype).flow)
    rng = np.random.default_rng(0)
    obs, noise = (rng.standard_normal((9, n)).astype(dtype) for n in (flow.field.obs_dim or 0, 3))
    weight = rng.uniform(0, 2, (9, 1)).astype(dtype)
    weight[:2] = 0

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: Any) -> tuple[Array, ...]:
        rows: list[Array] = []
        last = denoise(
            flow, obs, noise, guide, weight, lambda step, g: rows.extend((step.action, g.gradient))
        )
        action, q = candidates(flow, obs, last, True, GradientSteps(1, 0.1))
        assert q is not None
        return (action, q, *rows)

    program = record(flow, chain)
    expected = chain(flow, obs, noise, weight)
    found = execute(program, flow, obs, noise, weight)
    eps = np.finfo(dtype).eps
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=20 * eps * scale)
