"""The critic's Hessian-vector product: against its vjp, its symmetry, its linearity, its batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import DerivativeMismatch, check_adjoint, check_jvp
from qgf_ref.crosscheck.sampler.mistakes.gradient import _Observing
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.initialisers import init_value
from qgf_ref.nets.mlp import MLPOptions, mlp, mlp_vjp, mlp_vjp_jvp
from qgf_ref.ops import dense
from qgf_ref.ops.activations import ACTIVATIONS, activation_vjp
from qgf_ref.ops.layer_norm import layer_norm_vjp
from tests.conftest import small_checkpoint, states


def critic_without_norms(activation: str, members: int) -> MLPCritic:
    rng = np.random.default_rng(4)
    params = init_value(
        rng, 8, (11, 10, 9), ensemble=members, layer_norm=False, dtype="float64"
    ).map(lambda a: a + 0.2 * rng.standard_normal(a.shape))
    return MLPCritic(params, MLPOptions(activation))


def rules(critic: Any, rows: int) -> tuple[Any, Any, Array]:
    """a ↦ vjp with a cotangent of every member held, its hvp, and actions."""
    obs, action = states(small_checkpoint(), rows)
    members = len(critic.forward(obs, action)[0])
    q_bar = np.random.default_rng(9).standard_normal((members, rows))

    def pulled(a: Array) -> Array:
        return np.asarray(critic.vjp(q_bar, critic.forward(obs, a)[1]))

    def hvp(a: Array, a_dot: Array) -> Array:
        return np.asarray(critic.hvp(a_dot, q_bar, critic.forward(obs, a)[1]))

    return pulled, hvp, action


@pytest.mark.parametrize("variance", ["fast", "two_pass"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("rows", [1, 4])
def test_with_layer_norm(variance: Any, activation: str, members: int, rows: int) -> None:
    critic = small_checkpoint(activation=activation, members=members).networks().target_critic
    critic = replace(critic, options=replace(critic.options, variance=variance))
    pulled, hvp, action = rules(critic, rows)
    # measured ≤ 1.4e-14, 1.1e-15 and 3e-8 (relu, one row: LayerNorm alone bends)
    check_jvp(pulled, hvp, action, tolerance=7e-14)
    check_adjoint(pulled, hvp, hvp, action, tolerance=5e-15)
    check_jvp(pulled, hvp, action, oracle="central_difference", tolerance=2e-7)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"relu"}))
@pytest.mark.parametrize("members", [1, 2])
def test_without_layer_norm(activation: str, members: int) -> None:
    pulled, hvp, action = rules(critic_without_norms(activation, members), 4)
    # measured ≤ 1e-15 and 3e-16
    check_jvp(pulled, hvp, action, tolerance=5e-14)
    check_adjoint(pulled, hvp, hvp, action, tolerance=2e-15)


def test_relu_without_layer_norm_is_piecewise_linear() -> None:
    _, hvp, action = rules(critic_without_norms("relu", 2), 4)
    assert not hvp(action, action[::-1]).any()


def test_along_observation_and_action() -> None:
    critic = small_checkpoint().networks().target_critic
    obs, action = states(small_checkpoint(), 3)
    q_bar = np.random.default_rng(9).standard_normal((2, 3))

    def pulled(x: tuple[Array, ...]) -> tuple[Array, ...]:
        return critic.vjp_inputs(q_bar, critic.forward(*x)[1])

    def hvp(x: tuple[Array, ...], x_dot: tuple[Array, ...]) -> tuple[Array, ...]:
        return critic.hvp_inputs(x_dot[0], x_dot[1], q_bar, critic.forward(*x)[1])

    check_jvp(pulled, hvp, (obs, action), tolerance=5e-14)
    check_adjoint(pulled, hvp, hvp, (obs, action), tolerance=2e-15)
    only_action = hvp((obs, action), (np.zeros_like(obs), action))[1]
    product = critic.hvp(action, q_bar, critic.forward(obs, action)[1])
    np.testing.assert_array_equal(product, only_action)


@pytest.mark.parametrize("network", ["policy", "target_critic"])
def test_along_a_cotangent_that_moves(network: str) -> None:
    ck = small_checkpoint()
    params = getattr(ck, network)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, params.in_features))
    y_bar = rng.standard_normal(mlp(params, x, MLPOptions())[0].shape)

    def cache(v: Array) -> Any:
        return mlp(params, v, MLPOptions())[1]

    check_jvp(
        lambda z: mlp_vjp(z[1], cache(z[0])),
        lambda z, z_dot: mlp_vjp_jvp(z_dot[0], z[1], cache(z[0]), y_bar_dot=z_dot[1]),
        (x, y_bar),
        tolerance=5e-14,
    )


def test_a_row_of_a_batch_equals_the_batch_of_one(checkpoint: Any) -> None:
    critic, (obs, action) = checkpoint.networks().target_critic, states(checkpoint, 9)
    q, cache = critic.forward(obs, action)
    whole = critic.hvp(action[::-1], q, cache)
    for i in range(len(obs)):
        row = slice(i, i + 1)
        _, alone = critic.forward(obs[row], action[row])
        one = critic.hvp(action[::-1][row], q[:, row], alone)
        # BLAS sums in another order for one row: measured 1e-14
        np.testing.assert_allclose(one, whole[row], rtol=0, atol=1e-13)


def test_no_rows_and_other_strides(checkpoint: Any) -> None:
    critic, (obs, action) = checkpoint.networks().target_critic, states(checkpoint, 6)
    q, cache = critic.forward(obs, action)
    expected = critic.hvp(action[::-1], q, cache)
    turned = critic.hvp(np.asfortranarray(action[::-1]), np.asfortranarray(q), cache)
    np.testing.assert_allclose(turned, expected, rtol=1e-13)
    _, none = critic.forward(obs[:0], action[:0])
    assert critic.hvp(action[:0], q[:, :0], none).shape == (0, 3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_agrees_with_float64(activation: str) -> None:
    """Measured ≤ 1.2e-6 relative; ×5."""
    double = small_checkpoint(activation=activation).astype("float32").astype("float64")
    critic, single = (c.networks().target_critic for c in (double, double.astype("float32")))
    obs, action = (x.astype(np.float32) for x in states(double, 64))
    q_bar = np.ones((2, 64), np.float32)
    found = single.hvp(action[::-1], q_bar, single.forward(obs, action)[1])
    wide = [x.astype(np.float64) for x in (obs, action, q_bar)]
    exact = critic.hvp(wide[1][::-1], wide[2], critic.forward(*wide[:2])[1])
    assert found.dtype == np.float32
    assert np.linalg.norm(found - exact) < 6e-6 * np.linalg.norm(exact)


def test_a_simulated_mistake_has_an_hvp_of_its_own_gradient() -> None:
    pulled, hvp, action = rules(_Observing(small_checkpoint().networks().target_critic), 4)
    check_jvp(pulled, hvp, action, tolerance=5e-14)


PLANTED = {
    "the activation's curvature dropped": (
        "ACTIVATION",
        lambda x_dot, y_bar, y_bar_dot, cache: activation_vjp(y_bar_dot, cache),
    ),
    "LayerNorm taken to be linear": (
        "NORM",
        lambda x_dot, y_bar, y_bar_dot, cache: layer_norm_vjp(y_bar_dot, cache),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_dropped_term_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, wrong = PLANTED[name]
    monkeypatch.setattr(dense, stage, replace(getattr(dense, stage), vjp_jvp=wrong))
    pulled, hvp, action = rules(small_checkpoint().networks().target_critic, 4)
    with pytest.raises(DerivativeMismatch):
        check_jvp(pulled, hvp, action)
