"""Estimators with an auxiliary network: what they sample, what they cost, and without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError, estimator
from qgf_ref.arrays import Array
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import GuidedFlow, Products
from qgf_ref.guidance.counting import counted
from qgf_ref.nets.auxiliary import NO_AUXILIARY, NO_AUXILIARY_PARAMS
from qgf_ref.sampling import sample, trace
from tests.conftest import small_checkpoint, states
from tests.helpers.estimators import at

NAMES = ("robust_q", "qgf_distill", "qgf_jacobian_distill", "cfgrl")


@pytest.mark.parametrize("name", NAMES)
def test_without_its_network(name: str) -> None:
    bare = replace(small_checkpoint(), auxiliary=NO_AUXILIARY_PARAMS)
    obs, noise = states(bare, 2)
    needed = estimator(name).auxiliary
    message = f"{name} needs the auxiliary network {needed}.*qgf-ref train-extra {needed} --run DIR"
    for backend in ("numpy", "numba"):
        with pytest.raises(InputError, match=message):
            sample(bare.flow, obs, estimator=name, weight=1, noise=noise, backend=backend)
    with pytest.raises(InputError, match=message):
        trace(bare.flow, obs, estimator=name, weight=1, noise=noise)
    with pytest.raises(InputError, match=message):
        estimator(name)(bare.flow, at(bare, 1))


def v_of(flow: GuidedFlow, obs: Array, a: Array, t: float) -> tuple[Array, Array]:
    assert flow.auxiliary.cfgrl is not None
    v0, v1 = (field.forward(obs, a, t)[0] for field in flow.auxiliary.cfgrl)
    return v0, v1


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_cfgrl_integrates_v0_plus_w_times_the_difference(weight: float) -> None:
    ck = small_checkpoint()
    flow, T = ck.flow, ck.options.denoise_steps
    obs, noise = states(ck, 5)
    a = noise
    for k in range(T):
        v0, v1 = v_of(flow, obs, a, k / T)
        a = a + (v0 + weight * (v1 - v0)) / T
    expected = np.clip(a, -1, 1)
    got = sample(flow, obs, estimator="cfgrl", weight=weight, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    found = trace(flow, obs, estimator="cfgrl", weight=weight, noise=noise)
    np.testing.assert_array_equal(found.action, got)
    np.testing.assert_array_equal(found.v[2], v_of(flow, obs, found.a[2], 2 / T)[0])
    # ranked by the online critic, unlike every other method
    best = sample(flow, obs[:1], estimator="cfgrl", weight=weight, noise=noise, best_of=5)
    row = np.repeat(obs[:1], 5, axis=0)
    each = sample(flow, row, estimator="cfgrl", weight=weight, noise=noise)
    q = ck.network("critic").forward(row, each)[0].min(axis=0)
    np.testing.assert_allclose(best[0], each[q.argmax()], atol=1e-13)


def test_cfgrl_on_another_flow_and_on_its_own() -> None:
    """The same G; v₀ is asked for where it is not at hand, and not twice."""
    ck = small_checkpoint()
    e, flow = estimator("cfgrl"), ck.flow
    on = e.on(flow)
    obs, action = states(ck, 3)
    one, two = (e(f, denoising_step(f, obs, action, 2)).gradient for f in (flow, on))
    np.testing.assert_array_equal(one, two)
    assert e.products(flow, 0) == Products(field_forward=2)
    counting, counter = counted(on)
    counting = e.on(counting)
    step = denoising_step(counting, obs, action, 2)
    counter.take()
    e(counting, step)
    assert counter.take() == e.products(counting, 2) == Products(field_forward=1)
    assert e.on(on).field is on.field


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_kernels_agree(name: str, dtype: str) -> None:
    """Layer by layer; measured 5e-15 and 2e-6 (w = 0.3, six steps); ×5."""
    ck = small_checkpoint(dtype=dtype)
    obs, noise = (x.astype(dtype) for x in states(ck, 20))
    given: dict[str, Any] = {"estimator": name, "weight": 0.3, "best_of": 4}
    noise = np.tile(noise, (4, 1)) + np.arange(80)[:, None] / 100
    expected = sample(ck.flow, obs, noise=noise, **given)
    got = sample(ck.flow, obs, noise=noise, backend="numba", **given)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 if dtype == "float32" else 3e-14)


def test_the_distilled_network_is_asked_at_the_noisy_action() -> None:
    """A network that returns its input makes qgf_distill guide as ood on a clipped action."""

    class Identity:
        action_dim, obs_dim, dtype = 3, 5, np.dtype(np.float64)

        def forward(self, obs: Array, action: Array, time: Any) -> tuple[Array, Any]:
            return action, None

        def jvp(self, action_dot: Array, cache: Any) -> Array:
            return action_dot

        def vjp(self, velocity_bar: Array, cache: Any) -> Array:
            return velocity_bar

    ck = small_checkpoint()
    flow = replace(ck.flow, auxiliary=replace(NO_AUXILIARY, distill=Identity()))
    step = at(ck, 1)
    inside = replace(step, action=np.clip(step.action, -0.9, 0.9))
    expected = estimator("ood")(flow, inside).gradient
    for name in ("qgf_distill", "qgf_jacobian_distill"):
        np.testing.assert_array_equal(estimator(name)(flow, inside).gradient, expected)
    outside = estimator("qgf_jacobian_distill")(flow, step).gradient
    assert ((outside == 0) == (abs(step.action) > 1)).all(), "the clip's mask is in its Jacobian"
