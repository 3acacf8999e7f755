"""The auxiliary networks' losses: gradients by complex step, and literally the formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.checks import check_vjp
from qgf_ref.flow.euler import rollout
from qgf_ref.losses.auxiliary import cfgrl_loss, distill_loss, endpoints, robust_q_loss
from tests.conftest import small_checkpoint, states
from tests.helpers.some import some


def case(rows: int = 11, dtype: str = "float64", **options: Any) -> tuple[Any, dict[str, Any]]:
    """A checkpoint, and each loss as a function of its network alone."""
    ck = small_checkpoint(dtype=dtype, **options)
    nets, flow = ck.networks(), ck.flow
    obs, x1 = (x.astype(dtype) for x in states(ck, rows))
    x0 = np.random.default_rng(9).standard_normal(x1.shape).astype(dtype)
    t = ((np.arange(rows) % 7) / 6).astype(dtype)
    start = np.arange(rows) * 5 % ck.options.denoise_steps
    q, v = nets.target_critic, nets.value
    assert flow.auxiliary.cfgrl is not None
    return ck, {
        "robust_q": (
            flow.auxiliary.robust_q,
            lambda n: robust_q_loss(n, q, obs, x0, x1, t),
        ),
        "cfgrl": (flow.auxiliary.cfgrl[0], lambda n: cfgrl_loss(n, q, v, obs, x0, x1, t)),
        "distill": (
            flow.auxiliary.distill,
            lambda n: distill_loss(n, nets.policy, flow.times, obs, x0, x1, start),
        ),
    }


@pytest.mark.parametrize("name", ["robust_q", "cfgrl", "distill"])
@pytest.mark.parametrize("aggregation", some(["min", "mean"], 1))
def test_gradients(name: str, aggregation: str) -> None:
    """Also of the embedding's table, whose gradient is a scatter-add."""
    net, loss = case(aggregation=aggregation)[1][name]

    def at(p: Any) -> Any:
        return replace(net, params=net.params.replace(p))

    check_vjp(
        lambda p: np.asarray(loss(at(p))[0]),
        lambda p, u: tuple(float(u) * a for a in loss(at(p))[1].arrays()),
        net.params.arrays(),
        max_full=3000,
    )


def test_losses_are_literally_the_formulas() -> None:
    """Row by row with Python floats, from official.md section 6 and method.md section 3."""
    rows = 11
    ck, cases = case(rows)
    nets, aux, T = ck.networks(), ck.flow.auxiliary, ck.options.denoise_steps
    obs, x1 = states(ck, rows)
    x0 = np.random.default_rng(9).standard_normal(x1.shape)
    robust = cfgrl = distill = 0.0
    better = 0
    for i in range(rows):
        row, t, k = slice(i, i + 1), (i % 7) / 6, i * 5 % T
        x_t = (1 - t) * x0[row] + t * x1[row]
        q = float(nets.target_critic.forward(obs[row], x1[row])[0].min())
        robust += float(aux.robust_q.forward(obs[row], x_t, t)[0][0] - q) ** 2 / rows
        advantage = q - float(nets.value.forward(obs[row])[0][0])
        better += advantage > 0
        errors = [
            float(((v.forward(obs[row], x_t, t)[0] - (x1[row] - x0[row])) ** 2).mean())
            for v in aux.cfgrl
        ]
        cfgrl += ((advantage > 0) * errors[1] + 0.1 * errors[0]) / rows
        a = (1 - k / T) * x0[row] + k / T * x1[row]
        predicted = aux.distill.forward(obs[row], a, k / T)[0]
        for j in range(k, T):
            a = a + nets.policy.forward(obs[row], a, j / T)[0] / T
        distill += float(((predicted - a) ** 2).mean()) / rows
    assert 2 <= better <= rows - 2, "both signs of the advantage take part"
    for name, expected in (("robust_q", robust), ("cfgrl", cfgrl), ("distill", distill)):
        net, loss = cases[name]
        np.testing.assert_allclose(loss(net)[0], expected, rtol=1e-12, err_msg=name)


def test_endpoints_of_mixed_starts() -> None:
    """Each start's rows as the rollout that `qgf_chain` uses; the policy is asked for few rows."""
    ck, _ = case()
    flow, (obs, a), T = ck.flow, states(ck, 20), ck.options.denoise_steps
    start = np.random.default_rng(0).integers(0, T, 20)
    asked: list[int] = []

    class Watched:
        kernels = staticmethod(flow.kernels)

        def forward(self, obs: Array, action: Array, time: float) -> Any:
            asked.append(len(obs))
            return flow.field.forward(obs, action, time)

    watched: Any = Watched()
    found = endpoints(watched, flow.times, obs, a, start)
    for k in range(T):
        rows = start == k
        expected, _ = rollout(flow.field, obs[rows], a[rows], flow.times, start=k)
        # BLAS sums in another order for another number of rows
        np.testing.assert_allclose(found[rows], expected, rtol=0, atol=1e-13)
    assert sum(asked) == (T - start).sum()


@pytest.mark.parametrize("name", ["robust_q", "cfgrl", "distill"])
def test_compiled_kernels_agree(name: str) -> None:
    """Gradients in float32: measured 4e-7 relative to their norm; ×5."""
    net, loss = case(rows=30, dtype="float32")[1][name]
    value, bar = loss(net)
    compiled, compiled_bar = loss(replace(net, kernels=backend_named("numba").kernels()))
    np.testing.assert_allclose(compiled, value, rtol=2e-6)
    for ours, theirs in zip(compiled_bar.arrays(), bar.arrays(), strict=True):
        assert ours.dtype == np.float32
        assert np.linalg.norm(ours - theirs) < 2e-6 * (np.linalg.norm(theirs) + 1e-3)
