"""A bound of actions for each coordinate: what is clipped, its derivative, who refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError, adapters
from qgf_ref.crosscheck.compare import compare
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.ops.clip import Box, clip, clip_jvp, clip_vjp, outside
from tests.conftest import small_checkpoint, states

D = small_checkpoint().flat_action_dim
LOW, HIGH = -0.1 - 0.2 * np.arange(D), np.where(np.arange(D) % 2, 0.3, np.inf)
BOX = Box(tuple(LOW.tolist()), tuple(HIGH.tolist()))


def boxed(dtype: str = "float64") -> qgf_ref.GuidedFlow:
    return replace(small_checkpoint().astype(dtype).flow, action_bound=(LOW, HIGH))


def test_clip_and_its_products_by_coordinate() -> None:
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((2, 50, D))
    y, cache = clip(x, BOX)
    np.testing.assert_array_equal(y, np.clip(x, LOW, HIGH))
    step = 1e-30
    by_complex_step = clip(x + 1j * step * d, BOX)[0].imag / step
    np.testing.assert_allclose(clip_jvp(d, cache), by_complex_step, rtol=1e-15)
    np.testing.assert_allclose(clip_vjp(d, cache), by_complex_step, rtol=1e-15)
    np.testing.assert_array_equal(outside(x, BOX), y != x)
    at_ends = clip(np.stack([LOW, np.where(np.isinf(HIGH), 9, HIGH)]), BOX)[1].slope
    np.testing.assert_array_equal(at_ends, [[0.5] * D, np.where(np.isinf(HIGH), 1, 0.5)])


def test_a_symmetric_pair_is_a_number() -> None:
    """So that it runs compiled, and with the same bits."""
    flow = small_checkpoint().flow
    for pair in ((-0.7, 0.7), ([-0.7] * D, 0.7)):
        assert replace(flow, action_bound=pair).action_bound == 0.7
    assert boxed().action_bound == BOX
    assert replace(boxed(), denoise_steps=3).action_bound == BOX
    assert "a bound for each coordinate" in repr(boxed())


@pytest.mark.parametrize("name", ["qgf", "qgf_jacobian", "bptt", "none"])
def test_the_loop_clips_by_coordinate(name: str) -> None:
    """Query points and results; written out for the estimators that clip nothing else."""
    flow = boxed()
    obs, noise = states(small_checkpoint(), 6)
    traced = qgf_ref.trace(flow, obs, estimator=name, weight=0.4, noise=2 * noise)
    a = 2 * noise
    for k in range(flow.denoise_steps):
        t = k / flow.denoise_steps
        v, cache = flow.field.forward(obs, a, t)
        query, mask = clip(a + (1 - t) * v, BOX)
        if name in ("qgf", "qgf_jacobian"):
            np.testing.assert_allclose(traced.a1_hat[k], query, atol=1e-13, rtol=0)
            q, of_q = flow.critic.forward(obs, query)
            g = flow.critic.vjp((q == q.min(axis=0)).astype(float), of_q)
            if name == "qgf_jacobian":
                g = clip_vjp(g, mask)
                g = g + flow.field.vjp((1 - t) * g, cache)
            np.testing.assert_allclose(traced.g[k], g, atol=1e-12, rtol=0)
        a = a + (v + 0.4 * traced.g[k]) / flow.denoise_steps
    np.testing.assert_allclose(traced.action, np.clip(a, LOW, HIGH), atol=1e-12, rtol=0)
    assert (traced.action == HIGH).any() and (traced.action == LOW).any()


def test_numba_runs_it_layer_by_layer() -> None:
    obs, noise = states(small_checkpoint(), 6)
    given: Any = {"weight": 0.4, "noise": 2 * noise}
    ours = qgf_ref.sample(boxed(), obs, **given)
    np.testing.assert_allclose(
        qgf_ref.sample(boxed(), obs, backend="numba", **given), ours, atol=1e-12, rtol=0
    )


def test_the_cross_check_knows_it() -> None:
    """A port that clips so agrees; one that clips to ±1 does not, nor one that clips every step."""
    obs, noise = states(small_checkpoint(), 12)
    flow = boxed()
    given: Any = {"weight": 0.4, "noise": 2 * noise}
    ports = {True: flow, False: replace(flow, action_bound=1.0)}
    for right, port in ports.items():
        action = qgf_ref.sample(port, obs, **given)
        trace = recorded_trace({"obs": obs, "noise": 2 * noise, "action": action})
        assert compare(flow, trace, estimator="qgf", weight=0.4).agrees == right


def test_an_adapter_takes_one_for_every_step_alike() -> None:
    """A numbers for a chunk (H, A): of the real dimensions alone where padding is held."""
    low, high = [-0.1, -0.2, -0.3], [0.4, np.inf, 0.6]
    settings: Any = {
        "action_shape": (2, 3), "obs_dim": 1, "action_bound": (low, high), "check": False,
    }  # fmt: skip
    flow = adapters.functions(lambda s, x, t: x, **settings)
    assert flow.action_bound == Box(tuple(low * 2), tuple(high * 2))
    real = [True, False, True]
    flow = adapters.functions(lambda s, x, t: x, **settings, real=real, held=0.0)
    assert flow.action_bound == Box((-0.1, -0.3) * 2, (0.4, 0.6) * 2)
    with pytest.raises(InputError, match=r"the ends of action_bound must have shape"):
        adapters.functions(lambda s, x, t: x, **{**settings, "action_bound": ([0.0] * 4, 1.0)})


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        ((1.0, -1.0), "needs low < high, got 1 and -1 for coordinate 0"),
        (([-1.0] * 9, 1.0), r"or D = \d+ numbers each, got \(9,\) and \(\)"),
        ((float("nan"), 1.0), "needs low < high, got nan"),
        ("1", "positive or None, or a pair"),
        (0.0, "positive or None, or a pair"),
        ((1, 2, 3), "positive or None, or a pair"),
    ],
)
def test_other_bounds_are_refused(bound: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(small_checkpoint().flow, action_bound=bound)
