"""The auxiliary networks: products in action and parameters, structure, initial values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.nets.initialisers import init_table
from qgf_ref.nets.mlp import MLPOptions, MLPParams, mlp
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.time_embedding import time_embedding
from tests.conftest import conditional_params, small_checkpoint, states

TIMES = np.array([0.1, 0.5, 0.7, 0.2])


def networks(**options: Any) -> dict[str, Any]:
    auxiliary = small_checkpoint(**options).flow.auxiliary
    assert auxiliary.cfgrl is not None
    v0: Any = auxiliary.cfgrl[0]
    return {"robust_q": auxiliary.robust_q, "cfgrl": v0.given(np.array([1, 0, 1, 1]))}


@pytest.mark.parametrize("name", ["robust_q", "cfgrl"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products(name: str, activation: str) -> None:
    """In the action (measured ≤ 4e-15, 3e-16), and in every parameter, the table's included."""
    net = networks(activation=activation)[name]
    obs, action = states(small_checkpoint(), 4)

    def f(a: Array) -> Array:
        return np.asarray(net.forward(obs, a, TIMES)[0])

    def product(which: str) -> Callable[[Array, Array], Array]:
        return lambda a, u: getattr(net, which)(u, net.forward(obs, a, TIMES)[1])

    check_jvp(f, product("jvp"), action, tolerance=5e-14)
    check_vjp(f, product("vjp"), action, tolerance=5e-14)
    check_adjoint(f, product("jvp"), product("vjp"), action, tolerance=2e-15)

    def there(p: Any) -> Any:
        return replace(net, params=net.params.replace(p))

    check_vjp(
        lambda p: there(p).forward(obs, action, TIMES)[0],
        lambda p, u: there(p).vjp_params(u, there(p).forward(obs, action, TIMES)[1]).arrays(),
        net.params.arrays(),
        max_full=2000,
        directions=2,
    )


def test_the_inputs_come_in_the_official_order() -> None:
    """[s, a, emb(t)] and [s, a, emb(t), Embed(o)], from the primitives."""
    obs, action = states(small_checkpoint(), 4)
    embedding = time_embedding(TIMES)[0]
    nets = networks()
    x = np.concatenate([obs, action, embedding], axis=1)
    robust = nets["robust_q"]
    expected = mlp(robust.params, x, MLPOptions())[0][:, 0]
    np.testing.assert_array_equal(robust.forward(obs, action, TIMES)[0], expected)
    conditional = nets["cfgrl"]
    label = conditional.params.table[conditional.condition]
    expected = mlp(MLPParams(conditional.params.layers), np.hstack([x, label]), MLPOptions())[0]
    np.testing.assert_array_equal(conditional.forward(obs, action, TIMES)[0], expected)
    both = [conditional.given(o).forward(obs, action, 0.3)[0] for o in (0, 1)]
    assert abs(both[0] - both[1]).min() > 1e-6
    assert (conditional.obs_dim, conditional.action_dim, str(conditional.dtype)) == (
        5,
        3,
        "float64",
    )


def test_conditional_parameters_keep_their_table() -> None:
    params = conditional_params(np.random.default_rng(0), 4, 3, (6, 5))
    assert [layer.scale is not None for layer in params.layers] == [True, False, False]
    assert (params.in_features, params.out_features) == (4 + 3 + 16 + 32, 3)
    assert next(iter(params.named()))[0] == "table"
    assert [a.shape for _, a in params.named()] == [a.shape for a in params.arrays()]
    doubled = params.map(lambda a, b: a + b, params)
    assert doubled.table is not None and params.table is not None
    np.testing.assert_array_equal(doubled.table, 2 * params.table)
    np.testing.assert_array_equal(doubled.layers[1].kernel, 2 * params.layers[1].kernel)
    assert {str(a.dtype) for a in params.astype("float64").arrays()} == {"float64"}
    assert params.count == sum(a.size for a in params.arrays())
    # flax's Embed: normal, of variance 1/width
    drawn = [init_table(np.random.default_rng(s)) for s in range(100)]
    assert abs(np.std(drawn) * np.sqrt(32) - 1) < 0.03


def test_none_is_the_default() -> None:
    assert AuxiliaryParams().present() == {}
    assert AuxiliaryParams().astype("float32") == AuxiliaryParams()
    built = AuxiliaryParams().networks(MLPOptions())
    assert (built.robust_q, built.cfgrl, built.distill) == (None, None, None)
