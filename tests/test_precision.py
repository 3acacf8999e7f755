"""Rounding against 50 digits (benchmarks/mpmath_oracle.py, an implementation of its own)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import mpmath_oracle
from benchmarks.verify import tiny_checkpoint
from qgf_ref import denoising_step, estimator

RELATIVE = {"float64": 2e-12, "float32": 3e-5}
"""Ten times the largest of benchmarks/results/verification.json: 2e-13 and 3e-6. The time
embedding's angles of 1e4 rad cost float64 three digits; float32 gets them rounded from float64."""


@pytest.mark.parametrize("seed", [0, 1])
def test_every_quantity(seed: int) -> None:
    single = tiny_checkpoint(seed)
    rng = np.random.default_rng(seed + 10)
    obs, action = (rng.standard_normal((1, n)).astype(np.float32) for n in (3, 2))
    exact = mpmath_oracle.quantities(single, obs[0], action[0], 1, single.options.denoise_steps)
    for dtype, tolerance in RELATIVE.items():
        flow = single.astype(dtype).flow
        step = denoising_step(flow, obs.astype(dtype), action.astype(dtype), 1)
        assert mpmath_oracle.relative(step.velocity, exact["v"]) < tolerance
        for name in ("ood", "qgf", "qgf_jacobian", "bptt"):
            gradient = estimator(name)(flow, step).gradient
            assert gradient.dtype == dtype
            assert mpmath_oracle.relative(gradient, exact[name]) < tolerance
