"""Networks declared by their inputs: those of other agents, written down here and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import DerivativeMismatch, check_adjoint, check_jvp, check_vjp
from qgf_ref.errors import InputError
from qgf_ref.nets.initialisers import init_mlp, init_velocity, lecun_normal
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams, mlp
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.kernels import Kernels, reference_kernels

O, D, HIDDEN, ROWS = 5, 3, (7, 6), 4
TIMES = np.array([0.1, 0.5, 0.7, 0.2])


@dataclass(frozen=True)
class Declared(JointMLP):
    """Any network: its inputs are data."""

    params: MLPParams
    inputs: tuple[Input, ...]
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels

    def forward(self, obs: Array, action: Array) -> tuple[Array, JointCache]:
        return self.joint(obs=obs, action=action, goal=obs[:, ::-1], time=TIMES)


@dataclass(frozen=True)
class OneStep(Declared):
    """FQL's μ(s, z): no time, differentiated in the noise."""

    active: ClassVar[Input] = "noise"

    def forward(self, obs: Array, action: Array) -> tuple[Array, JointCache]:
        return self.joint(obs=obs, noise=action)


# width of the input, LayerNorms, the network's class and its inputs (baselines.md, section 1)
DECLARED: dict[str, tuple[int, int, type[Declared], tuple[Input, ...]]] = {
    "FQL's and QAM's flow: raw time, no LayerNorm": (
        O + D + 1,
        0,
        Declared,
        ("obs", "action", "raw_time"),
    ),
    "the same, LayerNorm on all but the last": (
        O + D + 1,
        1,
        Declared,
        ("obs", "action", "raw_time"),
    ),
    "FQL's one-step policy": (O + D, 0, OneStep, ("obs", "noise")),
    "EDP's policy": (O + D + 16, 1, Declared, ("obs", "action", "time")),
    "DAC's base: action first, LayerNorm on every layer": (D + O, 2, Declared, ("action", "obs")),
    "a goal": (2 * O + D + 16, 2, Declared, ("obs", "goal", "action", "time")),
    "one input alone": (D, 2, Declared, ("action",)),
}


def network(name: str) -> Declared:
    rng = np.random.default_rng(0)
    width, norms, kind, inputs = DECLARED[name]
    params = init_mlp(rng, width, HIDDEN, D, norms=norms, output=lecun_normal, dtype="float64")
    return kind(params.map(lambda a: a + 0.2 * rng.standard_normal(a.shape)), inputs)


def states() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((ROWS, O)), rng.standard_normal((ROWS, D))


def rule(net: JointMLP, product: str) -> Callable[[Array, Array], Array]:
    obs, _ = states()
    return lambda a, u: np.asarray(getattr(net, product)(u, net.forward(obs, a)[1]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DECLARED)
def test_products_of_declared_networks(name: str) -> None:
    """In the active input, of second order, and in the parameters."""
    net, (obs, action) = network(name), states()

    def f(a: Array) -> Array:
        return np.asarray(net.forward(obs, a)[0])

    # measured ≤ 1e-15 and 2e-16
    check_jvp(f, rule(net, "jvp"), action, tolerance=5e-15)
    check_vjp(f, rule(net, "vjp"), action, tolerance=5e-15)
    check_adjoint(f, rule(net, "jvp"), rule(net, "vjp"), action, tolerance=2e-15)
    y_bar = np.random.default_rng(2).standard_normal(f(action).shape)

    def pulled(a: Array) -> Array:
        return net.vjp(y_bar, net.forward(obs, a)[1])

    def hvp(a: Array, a_dot: Array) -> Array:
        return net.hvp(a_dot, y_bar, net.forward(obs, a)[1])

    check_jvp(pulled, hvp, action, tolerance=5e-14)

    def moved(p: Any) -> Declared:
        return replace(net, params=net.params.replace(p))

    check_vjp(
        lambda p: moved(p).forward(obs, action)[0],
        lambda p, u: moved(p).vjp_params(u, moved(p).forward(obs, action)[1]).arrays(),
        net.params.arrays(),
        max_full=2000,
        directions=2,
    )


def test_columns_come_in_the_declared_order() -> None:
    obs, action = states()
    columns = {"obs": obs, "goal": obs[:, ::-1], "action": action, "raw_time": TIMES[:, None]}
    for name in ("a goal", "DAC's base: action first, LayerNorm on every layer"):
        net = replace(network(name), inputs=tuple(reversed(("obs", "goal", "action", "raw_time"))))
        params = init_mlp(np.random.default_rng(3), 2 * O + D + 1, HIDDEN, D, dtype="float64")
        net = replace(net, params=params)
        x = np.concatenate([columns[i] for i in net.inputs], axis=1)
        np.testing.assert_array_equal(net.forward(obs, action)[0], mlp(params, x, MLPOptions())[0])


@pytest.mark.parametrize("inputs", [("obs", "action", "time"), ("action", "raw_time", "obs")])
def test_products_along_time_and_every_input(inputs: tuple[Input, ...]) -> None:
    """Both kinds of time; jvp and Hessian product in observation and action together."""
    params = init_mlp(np.random.default_rng(0), O + D + 16, HIDDEN, D, norms=1, dtype="float64")
    if "raw_time" in inputs:
        params = init_mlp(np.random.default_rng(0), O + D + 1, HIDDEN, D, dtype="float64")
    net, (obs, action) = MLPVelocity(params, inputs=inputs), states()
    assert (net.obs_dim, net.action_dim) == (O, D)
    check_jvp(
        lambda t: net.forward(obs, action, t)[0],
        lambda t, u: net.jvp_time(np.zeros_like(action), u, net.forward(obs, action, t)[1]),
        TIMES,
    )
    places = [inputs.index("obs"), inputs.index("action")]
    v_bar = np.random.default_rng(2).standard_normal((ROWS, D))

    def pulled(x: Any) -> Any:
        parts = net.vjp_inputs(v_bar, net.forward(x[0], x[1], TIMES)[1])
        return tuple(parts[i] for i in places)

    def hvp(x: Any, u: Any) -> Any:
        cache = net.forward(x[0], x[1], TIMES)[1]
        parts = net.joint_hvp(cache, v_bar, obs=u[0], action=u[1])
        return tuple(parts[i] for i in places)

    check_jvp(pulled, hvp, (obs, action))
    check_adjoint(pulled, hvp, hvp, (obs, action))
    check_jvp(
        lambda x: net.forward(x[0], x[1], TIMES)[0],
        lambda x, u: net.joint_jvp(net.forward(x[0], x[1], TIMES)[1], obs=u[0], action=u[1]),
        (obs, action),
    )


def test_a_part_taken_from_the_wrong_place_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (obs, action) = network("EDP's policy"), states()
    monkeypatch.setattr(JointMLP, "_part", lambda self, name, x_bar, cache: x_bar[:, :D])
    with pytest.raises(DerivativeMismatch):
        check_vjp(lambda a: net.forward(obs, a)[0], rule(net, "vjp"), action)


def test_wrong_declarations() -> None:
    params = init_velocity(np.random.default_rng(0), O, D, HIDDEN, dtype="float64")
    obs, action = states()
    wrong: Any = ("obs", "acton")
    with pytest.raises(InputError, match=r"network input .acton.; .* action, goal, label"):
        MLPVelocity(params, inputs=wrong)
    with pytest.raises(InputError, match="needs parameters with a table"):
        Declared(params, ("obs", "action", "label")).forward(obs, action)
