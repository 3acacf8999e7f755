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
from tests.helpers.small import small_checkpoint, states

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

    Infinite where they are not finite, and the reference would have to say why. Each estimator must
    run as a program: layer by layer, anything would be right.
    """
    before, call = DeviceSampler.few_rows, DeviceSampler.__call__
    device_sampler.samplers.clear()
    worst, calls = 0.0, 0

    def watched(self: DeviceSampler, *args: Any) -> Any:
        nonlocal worst, calls
        calls += 1
        results = call(self, *args)
        worst = np.inf if results is None else worst
        return results

    setattr(DeviceSampler, "few_rows", few)  # noqa: B010  mypy: the class's, for a while
    setattr(DeviceSampler, "__call__", watched)  # noqa: B010
    try:
        for asked, name in enumerate(estimators, 1):
            how["estimator"] = name
            expected, got = (
                sample(flow, obs, backend=backend, **how) for backend in ("numpy", "cupy")
            )
            assert calls == asked, f"{name} has no program"
            assert expected.dtype == got.dtype and expected.shape == got.shape
            worst = max(worst, float(np.abs(expected - got).max(initial=0)))
    finally:
        setattr(DeviceSampler, "few_rows", before)  # noqa: B010
        setattr(DeviceSampler, "__call__", call)  # noqa: B010
        device_sampler.samplers.clear()
    return worst


def small(seed: int = 1, rows: int = 5, **settings: Any) -> tuple[GuidedFlow, Array, Array]:
    """A small agent's flow, observations and noise.

    bare     hidden layers of both networks without LayerNorm, by number; "all"
    options  of both networks, and `field`, `critic` of each alone: `qgf_ref.nets.mlp.MLPOptions`
    inputs   of the field; with raw_time, the rows of the embedded time but one are left out
    """
    inputs = settings.pop("inputs", None)
    bare, options = settings.pop("bare", ()), settings.pop("options", {})
    own = {name: settings.pop(name, {}) for name in ("field", "critic")}
    checkpoint: Checkpoint = small_checkpoint(seed, **settings)
    flow: Any = checkpoint.flow
    nets = {}
    for name, more in own.items():
        net = getattr(flow, name)
        layers = [
            replace(layer, scale=None, offset=None) if bare == "all" or l in bare else layer
            for l, layer in enumerate(net.params.layers)
        ]
        params = replace(net.params, layers=tuple(layers))
        changed = replace(net.options, **{**options, **more})
        nets[name] = replace(net, params=params, options=changed)
        if name == "field" and inputs is not None:
            widths = {"obs": flow.field.obs_dim, "action": flow.field.action_dim, "raw_time": 1}
            rows = sum(widths[each] for each in inputs)
            first = replace(params.layers[0], kernel=params.layers[0].kernel[:rows])
            params = replace(params, layers=(first, *params.layers[1:]))
            nets[name] = replace(nets[name], params=params, inputs=inputs)
    return (replace(flow, **nets), *states(checkpoint, rows))
