"""∇²Q at a query point: closed forms, the aggregated ensemble, its cost, ledger, both backends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, MixtureFlow, sample
from qgf_ref.arrays import Array
from qgf_ref.audit.definitions import critic_hessian
from qgf_ref.audit.explain import explain
from qgf_ref.checks import check_adjoint, check_jvp
from qgf_ref.flow.closed_form_critics import BumpCritic, DistanceCritic
from qgf_ref.guidance.base import CRITIC_GRADIENT, Products
from qgf_ref.guidance.counting import counted
from qgf_ref.guidance.queries import critic_curvature, critic_gradient
from tests.conftest import small_checkpoint, states
from tests.helpers.closed_form import correlated, critic_of


@pytest.mark.parametrize("aggregation", ["min", "mean"])
@pytest.mark.parametrize("members", [1, 2])
def test_of_the_aggregated_critic(aggregation: str, members: int) -> None:
    ck = small_checkpoint(aggregation=aggregation, members=members)
    flow, (obs, x) = ck.flow, states(ck, 7)
    guidance, curvature = critic_curvature(flow, obs, x)
    np.testing.assert_array_equal(guidance.gradient, critic_gradient(flow, obs, x).gradient)
    assert guidance.q is not None
    attaining = set(guidance.q.argmin(axis=0))
    assert len(attaining) == members, "both members attain the minimum somewhere"
    hessian = critic_hessian(flow, obs, x)
    columns = np.stack([curvature.product(np.eye(3)[[i] * 7]) for i in range(3)], axis=-1)
    # measured 2.4e-15 and 4e-16 of the largest
    size = abs(hessian).max()
    np.testing.assert_allclose(columns, hessian, rtol=0, atol=2e-14 * size)
    np.testing.assert_allclose(columns, columns.swapaxes(1, 2), rtol=0, atol=2e-14 * size)


def test_it_pays_no_second_forward() -> None:
    ck = small_checkpoint()
    flow, counter = counted(ck.flow)
    obs, x = states(ck, 2)
    _, curvature = critic_curvature(flow, obs, x)
    assert counter.take() == CRITIC_GRADIENT
    curvature.product(x)
    curvature.product(-x)
    assert counter.take() == Products(critic_hvp=2)
    assert str(CRITIC_GRADIENT + Products(critic_hvp=2)) == "Q + Q vjp + 2 Q hvp"


def test_quadratic_critic_is_its_matrix() -> None:
    critic, rng = critic_of(3), np.random.default_rng(0)
    flow = GuidedFlow(MixtureFlow(correlated(3)), critic, 5, action_bound=None)
    x, x_dot = rng.standard_normal((2, 6, 3))
    product = critic_curvature(flow, np.zeros((6, 0)), x)[1].product(x_dot)
    np.testing.assert_allclose(product, -x_dot @ critic.curvature, rtol=1e-15)


@pytest.mark.parametrize("base", [critic_of(3), critic_of(1), DistanceCritic(0.4)])
@pytest.mark.parametrize("bump", [True, False])
def test_closed_form_critics(base: Any, bump: bool) -> None:
    width = 1 if isinstance(base, DistanceCritic) else len(base.optimum)
    critic = BumpCritic(base, np.full(width, 0.3), 2.0, 0.7) if bump else base
    rng = np.random.default_rng(1)
    x, q_bar = rng.standard_normal((5, width)), rng.standard_normal((1, 5))

    def pulled(a: Array) -> Array:
        return np.asarray(critic.vjp(q_bar, critic.forward(a[:, :0], a)[1]))

    def hvp(a: Array, a_dot: Array) -> Array:
        return np.asarray(critic.hvp(a_dot, q_bar, critic.forward(a[:, :0], a)[1]))

    if not isinstance(base, DistanceCritic):  # whose sign of a complex number is not analytic
        check_jvp(pulled, hvp, x, tolerance=2e-15)  # measured 3e-16
    check_jvp(pulled, hvp, x, oracle="central_difference", tolerance=1e-9)  # measured 9e-11
    check_adjoint(pulled, hvp, hvp, x, tolerance=5e-16)


@dataclass(frozen=True)
class Newton(Estimator):
    """One gradient step's worth of curvature: everything of it through the flow's kernels."""

    name = "newton"
    summary = "∇²Q(s, a_t)∇Q(s, a_t)"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance, curvature = critic_curvature(flow, step.obs, step.action)
        return replace(guidance, gradient=curvature.product(guidance.gradient))

    def products(self, flow: GuidedFlow, index: int) -> Products:
        return CRITIC_GRADIENT + Products(critic_hvp=1)


def test_it_is_wholly_on_the_record() -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 3)
    e = explain(ck, obs, estimator=Newton(), row=1, index=2, weight=0.1, noise=noise)
    assert e.complete
    found = [(x.operation, x.product, x.where) for x in e.ledger.entries]
    for layer in range(3):
        for operation in ("layer_norm", "activation"):
            assert (operation, "vjp_jvp", f"critic {layer}") in found
    # four of the gradient, and of the product four of each kind less the first layer's vjp
    assert sum(x[:2] == ("linear", "vjp") for x in found) == 4 + 4 + 3
    assert max(map(len, e.text().splitlines())) <= 100
    brief = e.text(brief=True)
    assert brief.count("critic vjp's jvp") == brief.count("critic jvp") == 1
    assert str(e.products) == "v + Q + Q vjp + Q hvp"


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float64", 1e-15)])
@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_both_backends_agree(dtype: str, error: float, aggregation: str) -> None:
    """Measured 8e-8 and 1e-16; of the product alone tests/kernels has the error."""
    pytest.importorskip("numba")
    ck = small_checkpoint(dtype=dtype, aggregation=aggregation)
    obs, noise = (x.astype(dtype) for x in states(ck, 9))
    one, other = (
        sample(ck.flow, obs, estimator=Newton(), weight=0.01, noise=noise, backend=backend)
        for backend in ("numpy", "numba")
    )
    unguided = sample(ck.flow, obs, estimator="none", noise=noise)
    assert abs(one - unguided).max() > 1e-3, "it guides"
    assert other.dtype == dtype
    assert np.linalg.norm(one - other) < error * np.linalg.norm(one)
