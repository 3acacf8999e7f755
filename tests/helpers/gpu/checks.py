"""What kernels are compared with: the reference's dense block, and its sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref import sample
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.cupy.kernels import device_kernels
from qgf_ref.backends.cupy.sampler import DeviceSampler, device_sampler
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.dense import Composed, DenseParts, DenseRule
from qgf_ref.ops.kernels import reference_kernels
from tests.conftest import small_checkpoint, states

FLOAT64 = 2e-14
"""Measured after six steps over all cases: 2e-15, as of the compiled sampler's."""
BLOCKS = (
    ((), False, 5, 3, 7),
    ((), False, 1, 1, 1),
    ((3,), False, 4, 6, 8),
    ((2,), True, 9, 5, 40),
)
"""Ensemble axes, whether x has them, B, I, F: odd sizes, sizes of 1, more than a warp has lanes."""


def dense_block(
    members: tuple[int, ...], own: bool, sizes: tuple[int, int, int], rule: DenseRule, norm: bool,
    dtype: str = "float64",
) -> float:  # fmt: skip
    """The largest error of a block and all of its products, in units of the quantity's size."""
    B, I, F = sizes
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    x = draw(*(members if own else ()), B, I)
    more = (draw(*members, F), draw(*members, F)) if norm else (None, None)
    parts = DenseParts(draw(*members, I, F), draw(*members, F), *more)
    x_dot, y_bar, y_bar_dot = draw(*x.shape), draw(*members, B, F), draw(*members, B, F)
    found = []
    for blocks in (Composed(reference_kernels), device_kernels()):
        kernels: Any = blocks
        y, cache = kernels.dense(x, parts, rule)
        y_dot, tangents = kernels.dense_tangents(x_dot, cache)
        x_bar, bars = kernels.dense_vjp_params(y_bar, cache)
        bent = kernels.dense_vjp_jvp(y_bar, y_bar_dot, cache, tangents)
        found.append([y, y_dot, kernels.dense_vjp(y_bar, cache), x_bar, *bars, *bent])
    worst = 0.0
    for expected, got in zip(*found, strict=True):
        if expected is None or got is None:
            assert expected is got
            continue
        assert expected.shape == got.shape and expected.dtype == got.dtype
        error = float(np.abs(expected - got).max() / max(1, np.abs(expected).max()))
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def sampled(
    flow: GuidedFlow, obs: Array, few: bool, estimators: Sequence[str] = ("qgf",), **how: Any
) -> float:
    """The largest error of actions on the way for few rows, or for many.

    Infinite where they are not finite, and the reference would have to say why.
    """
    before, call = DeviceSampler.few_rows, DeviceSampler.__call__
    device_sampler.samplers.clear()
    worst = 0.0

    def watched(self: DeviceSampler, *args: Any) -> Any:
        nonlocal worst
        results = call(self, *args)
        worst = np.inf if results is None else worst
        return results

    setattr(DeviceSampler, "few_rows", few)  # noqa: B010  mypy: the class's, for a while
    setattr(DeviceSampler, "__call__", watched)  # noqa: B010
    try:
        for name in estimators:
            how["estimator"] = name
            expected, got = (
                sample(flow, obs, backend=backend, **how) for backend in ("numpy", "cupy")
            )
            assert expected.dtype == got.dtype and expected.shape == got.shape
            worst = max(worst, float(np.abs(expected - got).max(initial=0)))
    finally:
        setattr(DeviceSampler, "few_rows", before)  # noqa: B010
        setattr(DeviceSampler, "__call__", call)  # noqa: B010
        device_sampler.samplers.clear()
    return worst


def small(seed: int = 1, rows: int = 5, **settings: Any) -> tuple[GuidedFlow, Array, Array]:
    """A small agent's flow, observations and noise; norm=False, variance as of its networks."""
    norm, variance = settings.pop("norm", True), settings.pop("variance", "fast")
    checkpoint: Checkpoint = small_checkpoint(seed, **settings)
    flow: Any = checkpoint.flow
    options = replace(flow.field.options, variance=variance)
    nets = {"field": flow.field, "critic": flow.critic}
    for name, net in nets.items():
        params = net.params
        if not norm:
            plain = (replace(layer, scale=None, offset=None) for layer in params.layers)
            params = replace(params, layers=tuple(plain))
        nets[name] = replace(net, params=params, options=options)
    return (replace(flow, **nets), *states(checkpoint, rows))
