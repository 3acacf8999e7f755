"""The networks of the paper's other methods: products by complex steps, layouts by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.part import NetworkSettings, Part
from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.errors import InputError
from qgf_ref.nets.joint import JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams

O, D, B = 4, 3, 5
PARTS = (
    Part("actor_bc_flow", ("obs", "action", "raw_time"), "action", layer_norm=False),
    Part("actor_onestep_flow", ("obs", "noise"), "action", layer_norm=False),
    Part("actor", ("action", "obs", "step"), "action", activation="mish"),
)
every_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)


def network(part: Part) -> JointMLP:
    rng = np.random.default_rng(1)
    params = part.initial(rng, O, D, (7, 6), 2).astype(float)
    params = params.map(lambda a: a + rng.normal(0, 0.2, a.shape))
    net: JointMLP = part.network(params, NetworkSettings(MLPOptions("gelu")))
    return net


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    obs, action = rng.standard_normal((B, O)), rng.standard_normal((B, D))
    return {"obs": obs, "action": action, "noise": action, "time": 0.3, "step": np.arange(1, B + 1)}


def products(net: JointMLP) -> tuple[Any, Any, Any]:
    def at(x: Array) -> Any:
        return net.joint(**{**inputs(), net.active: x})

    return (
        lambda x: at(x)[0],
        lambda x, x_dot: net.jvp(x_dot, at(x)[1]),
        lambda x, y_bar: net.vjp(y_bar, at(x)[1]),
    )


@every_part
def test_products_in_the_input(part: Part) -> None:
    f, jvp, vjp = products(network(part))
    x = inputs()["action"]
    check_jvp(f, jvp, x, tolerance=1e-12)
    check_vjp(f, vjp, x, tolerance=1e-12)
    check_adjoint(f, jvp, vjp, x)


@every_part
def test_second_order_product_in_the_input(part: Part) -> None:
    net, x = network(part), inputs()["action"]
    y_bar = np.random.default_rng(3).standard_normal((B, D))

    def at(x: Array) -> Any:
        return net.joint(**{**inputs(), net.active: x})[1]

    def hvp(x: Array, x_dot: Array) -> Array:
        return net.hvp(x_dot, y_bar, at(x))

    check_jvp(lambda x: net.vjp(y_bar, at(x)), hvp, x, tolerance=1e-12)


@every_part
def test_gradient_in_the_parameters(part: Part) -> None:
    """Of a diffusion policy also in the encoder and its frequencies."""
    net = network(part)

    def at(p: Any) -> Any:
        return replace(net, params=net.params.replace(p)).joint(**inputs())  # type: ignore[type-var]

    def vjp(p: Any, y_bar: Array) -> Any:
        moved: Any = replace(net, params=net.params.replace(p))  # type: ignore[type-var]
        return moved.vjp_params(y_bar, at(p)[1]).arrays()

    check_vjp(lambda p: at(p)[0], vjp, net.params.arrays(), tolerance=1e-12, max_full=1000)


def mish(x: Array) -> Array:
    result: Array = x * np.tanh(np.log1p(np.exp(x)))
    return result


def test_a_noise_predictor_by_hand() -> None:
    """ε = MLP₁([x, s, MLP₀(features of k)]), mish, none after either's last layer."""
    net, given = network(PARTS[2]), inputs()
    encoder = net.params.encoder
    assert encoder is not None and encoder.table is not None

    def mlp(params: MLPParams, x: Array) -> Array:
        for layer in params.layers[:-1]:
            x = mish(x @ layer.kernel + layer.bias)
        return x @ params.layers[-1].kernel + params.layers[-1].bias

    angle = 2 * np.pi * given["step"][:, None] * encoder.table[:, 0]
    columns = mlp(encoder, np.concatenate([np.cos(angle), np.sin(angle)], axis=1))
    assert columns.shape == (B, 6)
    expected = mlp(net.params, np.concatenate([given["action"], given["obs"], columns], axis=1))
    np.testing.assert_allclose(net.joint(**given)[0], expected, rtol=1e-12)


def test_parameters_of_an_encoder_keep_their_place() -> None:
    params = network(PARTS[2]).params
    names = [name for name, _ in params.named()]
    assert names[:3] == ["encoder.table", "encoder.layers.0.kernel", "encoder.layers.0.bias"]
    assert names[-1] == "layers.2.bias" and len(names) == len(params.arrays())
    again = params.replace(tuple(2 * a for a in params.arrays()))
    for (_, a), (_, b) in zip(again.named(), params.named(), strict=True):
        np.testing.assert_array_equal(a, 2 * b)


def test_a_step_without_an_encoder_is_refused() -> None:
    net = network(PARTS[2])
    bare: Any = replace(net, params=MLPParams(net.params.layers))  # type: ignore[type-var]
    with pytest.raises(InputError, match="takes a step needs parameters with an encoder"):
        bare.joint(**inputs())
