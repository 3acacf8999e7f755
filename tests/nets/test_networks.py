"""Velocity, critic and value networks: products, structure, batches, dtypes, initial values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.initialisers import init_value, init_velocity, lecun_normal
from qgf_ref.nets.mlp import MLPOptions
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.activations import ACTIVATIONS
from tests.conftest import small_checkpoint, states


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("rows", [1, 4])
def test_products_in_the_action(activation: str, members: int, rows: int) -> None:
    ck = small_checkpoint(activation=activation, members=members)
    nets, (obs, action) = ck.networks(), states(ck, rows)
    v, q = nets.policy, nets.target_critic
    rules: list[tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = [
        (
            lambda a: v.forward(obs, a, 0.4)[0],
            lambda a, u: v.jvp(u, v.forward(obs, a, 0.4)[1]),
            lambda a, u: v.vjp(u, v.forward(obs, a, 0.4)[1]),
        ),
        (
            lambda a: q.forward(obs, a)[0],
            lambda a, u: q.jvp(u, q.forward(obs, a)[1]),
            lambda a, u: q.vjp(u, q.forward(obs, a)[1]),
        ),
    ]
    for f, jvp, vjp in rules:
        # measured ≤ 5e-15 and ≤ 3e-16 over these cases
        check_jvp(f, jvp, action, tolerance=5e-14)
        check_vjp(f, vjp, action, tolerance=5e-14)
        check_adjoint(f, jvp, vjp, action, tolerance=2e-15)
        check_jvp(f, jvp, action, oracle="central_difference", tolerance=1e-7)


def test_products_in_every_input_and_parameter() -> None:
    ck = small_checkpoint()
    nets, (obs, action) = ck.networks(), states(ck, 3)
    v, q, value = nets.policy, nets.critic, nets.value
    check_vjp(
        lambda x: v.forward(x[0], x[1], 0.4)[0],
        lambda x, u: v.vjp_inputs(u, v.forward(x[0], x[1], 0.4)[1])[:2],
        (obs, action),
    )
    check_vjp(
        lambda x: q.forward(*x)[0],
        lambda x, u: q.vjp_inputs(u, q.forward(*x)[1]),
        (obs, action),
    )
    times = np.array([0.1, 0.5, 0.7])
    check_jvp(
        lambda t: v.forward(obs, action, t)[0],
        lambda t, u: v.jvp_time(np.zeros_like(action), u, v.forward(obs, action, t)[1]),
        times,
    )
    for net, inputs in ((v, (obs, action, 0.4)), (q, (obs, action)), (value, (obs,))):

        def there(p: Any, net: Any = net) -> Any:
            return replace(net, params=net.params.replace(p))

        check_vjp(
            lambda p, there=there, inputs=inputs: there(p).forward(*inputs)[0],
            lambda p, u, there=there, inputs=inputs: (
                there(p).vjp_params(u, there(p).forward(*inputs)[1]).arrays()
            ),
            net.params.arrays(),
            max_full=2000,
            directions=2,
        )


def test_structure_of_the_official_networks() -> None:
    """LayerNorm on all hidden layers of critic and value, on all but the last of the actor."""
    ck = small_checkpoint()
    assert [layer.scale is not None for layer in ck.policy.layers] == [True, True, False, False]
    for params in (ck.critic, ck.value):
        assert [layer.scale is not None for layer in params.layers] == [True, True, True, False]


def test_a_row_of_a_batch_equals_the_batch_of_one(checkpoint: Any) -> None:
    nets, (obs, action) = checkpoint.networks(), states(checkpoint, 17)
    v, cache = nets.policy.forward(obs, action, 0.3)
    pulled = nets.policy.vjp(v, cache)
    for i in range(len(obs)):
        row = slice(i, i + 1)
        v1, cache1 = nets.policy.forward(obs[row], action[row], 0.3)
        # BLAS sums in another order for one row (gemv): rounding, not bits
        np.testing.assert_allclose(v1, v[row], rtol=0, atol=1e-14)
        np.testing.assert_allclose(nets.policy.vjp(v1, cache1), pulled[row], rtol=0, atol=1e-13)


def test_members_do_not_mix(checkpoint: Any) -> None:
    critic, (obs, action) = checkpoint.networks().target_critic, states(checkpoint, 4)
    q = critic.forward(obs, action)[0]
    for e in range(2):
        alone = MLPCritic(critic.params.map(lambda a, e=e: a[e : e + 1]), critic.options)
        np.testing.assert_allclose(alone.forward(obs, action)[0][0], q[e], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mlp_dtype(dtype: str) -> None:
    ck = small_checkpoint(dtype=dtype)
    obs, action = (x.astype(dtype) for x in states(ck, 3))
    v, cache = ck.networks().policy.forward(obs, action, 0.3)
    assert v.dtype == dtype
    assert ck.networks().policy.vjp(v, cache).dtype == dtype
    assert ck.networks().policy.jvp(action, cache).dtype == dtype
    q, q_cache = ck.networks().critic.forward(obs, action)
    assert q.dtype == dtype
    assert ck.networks().critic.vjp(q, q_cache).dtype == dtype
    assert all(a.dtype == dtype for a in ck.networks().critic.vjp_params(q, q_cache).arrays())


def test_float32_agrees_with_float64() -> None:
    """Measured 6e-7 (v) and 8e-7 (Q) relative; ×5."""
    double = small_checkpoint().astype("float32").astype("float64")
    single = double.astype("float32")
    obs, action = (x.astype(np.float32) for x in states(double, 64))
    for name, inputs in (("policy", (obs, action, 0.3)), ("critic", (obs, action))):
        y64 = getattr(double.networks(), name).forward(*(_double(x) for x in inputs))[0]
        y32 = getattr(single.networks(), name).forward(*inputs)[0]
        assert np.linalg.norm(y32 - y64) / np.linalg.norm(y64) < 4e-6


def _double(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x


def test_initial_values() -> None:
    """fan_avg uniform (kurtosis 1.8) everywhere but the actor's output: lecun normal cut at 2σ."""
    rng = np.random.default_rng(0)
    policy = init_velocity(rng, 30, 20, (128, 128), dtype="float64")
    critic = init_value(rng, 50, (128, 128), ensemble=2, dtype="float64")
    for params in (policy, critic):
        for layer in params.layers:
            assert not layer.bias.any()
            if layer.scale is not None and layer.offset is not None:
                assert (layer.scale == 1).all()
                assert not layer.offset.any()
    for kernel in (policy.layers[1].kernel, critic.layers[1].kernel):
        limit = np.sqrt(6 / 256)
        assert abs(kernel).max() <= limit
        assert abs(kernel.std() / (limit / np.sqrt(3)) - 1) < 0.02
        assert abs(_kurtosis(kernel) - 1.8) < 0.03
    output = policy.layers[-1].kernel
    assert abs(output.std() / np.sqrt(1 / 128) - 1) < 0.04
    assert abs(_kurtosis(output) - 2.35) < 0.15
    assert abs(critic.layers[0].kernel[0] - critic.layers[0].kernel[1]).max() > 0.1
    assert abs(critic.layers[-1].kernel).max() > 0.15, "the critic's output is fan_avg uniform too"


def test_lecun_normal_has_the_bits_of_scipys_cut_normal() -> None:
    from scipy.stats import truncnorm

    cut = truncnorm(-2, 2)
    for seed, shape in enumerate([(7, 3), (2, 30, 5), (200, 300)]):
        draws = cut.ppf(np.random.default_rng(seed).uniform(size=shape))
        expected = draws * (np.sqrt(1 / shape[-2]) / cut.std())
        assert (lecun_normal(np.random.default_rng(seed), shape) == expected).all()


def test_layer_norm_is_optional() -> None:
    rng = np.random.default_rng(0)
    for params in (
        init_velocity(rng, 3, 2, (4, 4), layer_norm=False),
        init_value(rng, 3, (4, 4), layer_norm=False),
    ):
        assert all(layer.scale is None and layer.offset is None for layer in params.layers)


def _kurtosis(x: Array) -> float:
    return float(((x - x.mean()) ** 4).mean() / x.var() ** 2)


def test_velocity_dimensions() -> None:
    ck = small_checkpoint()
    field = MLPVelocity(ck.policy, MLPOptions())
    assert (field.obs_dim, field.action_dim, str(field.dtype)) == (5, 3, "float64")
    assert ck.policy.ensemble is None
    assert ck.critic.ensemble == 2
