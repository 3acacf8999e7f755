"""LayerNorm after the activation, and residual blocks: every product, against oracles."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from benchmarks.golden import GOLDEN
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.checks import DerivativeMismatch, check_adjoint, check_jvp, check_vjp
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.unpickle import read_pickle
from qgf_ref.ledger import Ledger
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import (
    LayerParams,
    MLPCache,
    MLPOptions,
    MLPParams,
    mlp,
    mlp_jvp,
    mlp_vjp,
    mlp_vjp_jvp,
    mlp_vjp_params,
)
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.dense import DenseCache
from tests.conftest import small_checkpoint, states
from tests.helpers.compiled_sampler import both, counted, teams_on_small_networks

WIDTHS = 6, 6, 6, 4, 4, 3
"""The first layer is square, too: it is no residual block. The third has no LayerNorm."""
ORDERS = {
    "norm first": MLPOptions("tanh", 1e-3),
    "norm after": MLPOptions("tanh", 1e-3, norm_after_activation=True),
    "residual": MLPOptions("tanh", 1e-3, residual=True),
    "both": MLPOptions("tanh", 1e-3, "two_pass", True, True),
}


def network(members: int | None, seed: int = 0, dtype: str = "float64") -> MLPParams:
    rng = np.random.default_rng(seed)
    lead = () if members is None else (members,)
    layers = []
    for i, (rows, columns) in enumerate(pairwise(WIDTHS)):
        vectors = 3 if i not in (2, len(WIDTHS) - 2) else 1
        arrays = [rng.standard_normal((*lead, columns)) for _ in range(vectors)]
        kernel = rng.standard_normal((*lead, rows, columns)) / rows**0.5
        layers.append(LayerParams(kernel, *arrays))
    return MLPParams(tuple(layers)).astype(dtype)


def literal(params: MLPParams, x: Array, options: MLPOptions) -> Array:
    """The definition, written out; an ensemble member by member."""
    if params.ensemble is not None:
        members = range(params.ensemble)
        alone = [params.map(lambda a, e=e: a[e]) for e in members]
        return np.stack([literal(member, x, options) for member in alone])
    for i, layer in enumerate(params.layers):
        y = x @ layer.kernel + layer.bias
        if i == len(params.layers) - 1:
            return y
        y = y if options.norm_after_activation else normalised(y, layer, options.layer_norm_eps)
        y = np.tanh(y)
        y = normalised(y, layer, options.layer_norm_eps) if options.norm_after_activation else y
        x = x + y if options.residual and i > 0 and x.shape[-1] == y.shape[-1] else y
    raise AssertionError("no output layer")


def normalised(y: Array, layer: LayerParams, eps: float) -> Array:
    if layer.scale is None or layer.offset is None:
        return y
    centred = y - y.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * layer.scale + layer.offset


def inputs(params: MLPParams, rows: int = 5) -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    lead = () if params.ensemble is None else (params.ensemble,)
    return rng.standard_normal((rows, WIDTHS[0])), rng.standard_normal((*lead, rows, WIDTHS[-1]))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_products(order: str, members: int | None, backend: str) -> None:
    """Against the complex step of the definition written out, and against each other."""
    kernels = backend_named(backend).kernels()
    params, options = network(members), ORDERS[order]
    x, y_bar = inputs(params)
    y, cache = mlp(params, x, options, kernels)
    assert cache.residual == (False, options.residual, False, options.residual, False)
    # measured 2e-14 at most, where the variance of a saturated layer cancels
    np.testing.assert_allclose(y, literal(params, x, options), rtol=0, atol=1e-13)

    def saved(v: Array) -> MLPCache:
        return mlp(params, v, options, kernels)[1]

    def jvp(v: Array, v_dot: Array) -> Array:
        return mlp_jvp(v_dot, saved(v), kernels)

    def vjp(v: Array, u: Array) -> Array:
        return mlp_vjp(u, saved(v), kernels)

    def of_params(arrays: tuple[Array, ...]) -> Array:
        return literal(params.replace(arrays), x, options)

    def vjp_params(arrays: tuple[Array, ...], u: Array) -> tuple[Array, ...]:
        _, cache = mlp(params.replace(arrays), x, options, kernels)
        return mlp_vjp_params(u, cache, kernels)[1].arrays()

    check_jvp(lambda v: literal(params, v, options), jvp, x, tolerance=1e-12)
    check_vjp(lambda v: literal(params, v, options), vjp, x, tolerance=1e-12)
    check_adjoint(lambda v: literal(params, v, options), jvp, vjp, x, tolerance=1e-13)
    check_vjp(of_params, vjp_params, params.arrays(), tolerance=1e-12, max_full=0)
    check_jvp(
        lambda z: mlp_vjp(z[1], saved(z[0]), kernels),
        lambda z, z_dot: mlp_vjp_jvp(z_dot[0], z[1], saved(z[0]), kernels, z_dot[1]),
        (x, y_bar),
        tolerance=1e-12,
    )
    x_bar, _ = mlp_vjp_params(y_bar, cache, kernels)
    assert x_bar is not None
    np.testing.assert_allclose(x_bar, vjp(x, y_bar), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ORDERS)
def test_the_ledger_sees_every_operation(name: str) -> None:
    ledger, params = Ledger(), network(2)
    ledger.declare_params("net", params)
    x, y_bar = inputs(params)
    ledger.declare("x", x)
    ledger.declare("y_bar", y_bar)
    _, cache = mlp(params, x, ORDERS[name], ledger)
    x_bar = mlp_vjp(y_bar, cache, ledger)
    np.testing.assert_array_equal(ledger.replay(x_bar), x_bar)
    assert not ledger.undeclared
    operations = [entry.operation for entry in ledger.entries]
    assert operations.count("axpy") == (4 if ORDERS[name].residual else 0)
    first = ["linear", "layer_norm", "activation"]
    assert operations[:3] == (first if name in ("norm first", "residual") else
                              ["linear", "activation", "layer_norm"])  # fmt: skip


def swapped(cache: MLPCache) -> MLPCache:
    """The products take LayerNorm and activation in the other order."""
    blocks = tuple(DenseCache((b.saved[0], *reversed(b.saved[1:]))) for b in cache.blocks)
    return cache._replace(blocks=blocks)


def forgotten(cache: MLPCache) -> MLPCache:
    """The products forget the residual sums."""
    return cache._replace(residual=(False,) * len(cache.residual))


def first_too(cache: MLPCache) -> MLPCache:
    """The first layer, which happens to be square, is taken for a residual block."""
    return cache._replace(residual=(True, *cache.residual[1:]))


@pytest.mark.parametrize(
    "order, planted",
    [("norm first", swapped), ("norm after", swapped), ("residual", forgotten),
     ("both", swapped), ("both", forgotten), ("residual", first_too)],
)  # fmt: skip
def test_planted_errors_are_caught(order: str, planted: Callable[[MLPCache], MLPCache]) -> None:
    params, options = network(None), ORDERS[order]
    x, y_bar = inputs(params)

    def saved(v: Array, right: bool = False) -> MLPCache:
        cache = mlp(params, v, options)[1]
        return cache if right else planted(cache)

    def products(z: Any, z_dot: Any) -> Array:
        return mlp_vjp_jvp(z_dot[0], z[1], saved(z[0]), y_bar_dot=z_dot[1])

    with pytest.raises(DerivativeMismatch):
        check_jvp(lambda v: literal(params, v, options), lambda v, u: mlp_jvp(u, saved(v)), x)
    with pytest.raises(DerivativeMismatch):
        check_vjp(lambda v: literal(params, v, options), lambda v, u: mlp_vjp(u, saved(v)), x)
    with pytest.raises(DerivativeMismatch):
        check_jvp(lambda z: mlp_vjp(z[1], saved(z[0], right=True)), products, (x, y_bar))

    def vjp_params(arrays: tuple[Array, ...], u: Array) -> tuple[Array, ...]:
        cache = planted(mlp(params.replace(arrays), x, options)[1])
        return mlp_vjp_params(u, cache)[1].arrays()

    if planted is not first_too:  # no parameter's cotangent depends on it
        with pytest.raises(DerivativeMismatch):
            check_vjp(
                lambda arrays: literal(params.replace(arrays), x, options),
                vjp_params, params.arrays(), max_full=0,
            )  # fmt: skip


def layers_of(tree: Any) -> MLPParams:
    """An official trunk's: Dense_0, LayerNorm_0, …"""
    layers = []
    for i in range(sum(name.startswith("Dense") for name in tree)):
        dense, norm = tree[f"Dense_{i}"], tree.get(f"LayerNorm_{i}", {})
        layers.append(
            LayerParams(dense["kernel"], dense["bias"], norm.get("scale"), norm.get("bias"))
        )
    return MLPParams(tuple(layers)).astype("float64")


def of_goals(official: dict[str, Array]) -> Array:
    """[s, g]."""
    return np.concatenate([official["observations"], official["goals"]], axis=1).astype(float)


def official_flow(case: Path, options: MLPOptions, critic: str, config: Any) -> GuidedFlow:
    """GCFBC's goal-conditioned policy (raw time) and a DQC critic, both of (s, g)."""
    nets: list[dict[str, Any]] = [
        read_pickle(case / f"{name}.pkl")["agent"]["network"]["params"]
        for name in ("policy_gcfbc", "params_0")
    ]
    field = MLPVelocity(
        layers_of(nets[0]["modules_actor_flow"]["mlp"]), options,
        inputs=("obs", "action", "raw_time"),
    )  # fmt: skip
    params = layers_of(nets[1][f"modules_{critic}"]["value_net"])
    return GuidedFlow(field, MLPCritic(params, options, config["q_agg"]), config["flow_steps"])


@pytest.fixture(params=["cube", "puzzle", "state_goals"])
def golden_case(request: pytest.FixtureRequest) -> Path:
    path = GOLDEN / "gc" / request.param
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    return path


AFTER = MLPOptions(norm_after_activation=True)


def test_official_networks(golden_case: Path) -> None:
    """DQC's and horizon-reduction's networks: float64 traces, whose g are vjps of them."""
    official, traces = (
        dict(np.load(golden_case / f"{name}.npz")) for name in ("official_float32", "trace_float64")
    )
    obs, noise = of_goals(official), official["noise"].astype(float)
    config = json.loads((golden_case / "config.json").read_text())
    seen = set()
    for key in traces:
        policy, critic, output, method, weight, *_ = key.split("/")
        if policy != "gcfbc" or output != "logit" or not weight.startswith("w"):
            continue
        if (run := key.rpartition("/")[0]) in seen:
            continue
        seen.add(run)
        flow = official_flow(golden_case, AFTER, critic, config)
        w = float(weight.removeprefix("w"))
        found = qgf_ref.trace(flow, obs, estimator=method, weight=w, noise=noise)
        for name in found.arrays():
            if f"{run}/{name}" in traces:
                expected = traces[f"{run}/{name}"]
                # measured 4e-14 (g up to 40)
                np.testing.assert_allclose(getattr(found, name), expected, rtol=0, atol=1e-12)
    assert len(seen) == 5 * len(config["weights"])


def test_the_other_order_is_another_network(golden_case: Path) -> None:
    """Trap T1: it loads without complaint, and its numbers are wrong."""
    with np.load(golden_case / "official_float32.npz") as file:
        official = dict(file)
    config = json.loads((golden_case / "config.json").read_text())
    obs = of_goals(official)
    errors = []
    for options in (AFTER, MLPOptions()):
        flow = official_flow(golden_case, options, "action_critic", config)
        q, _ = flow.critic.forward(obs, official["probe_action"].astype(float))
        v, _ = flow.field.forward(obs, official["probe_action"].astype(float), official["probe_t"])
        errors.append(
            [abs(q - official["probe/action_critic"]).max(), abs(v - official["probe/gcfbc"]).max()]
        )
    # float32 networks: measured 1.5e-6; the other order 2
    assert max(errors[0]) < 1e-5 and min(errors[1]) > 0.1


def in_order(flow: Any, options: MLPOptions) -> GuidedFlow:
    """A flow whose networks have these options."""
    nets = {name: getattr(flow, name) for name in ("field", "critic")}
    return replace(flow, **{name: replace(net, options=options) for name, net in nets.items()})


def ordered(name: str, dtype: str = "float64") -> tuple[GuidedFlow, Array, Array]:
    """A flow with residual blocks where the order has them, observations and noise."""
    checkpoint = small_checkpoint(hidden=(8, 8, 8), activation="tanh").astype(dtype)
    obs, noise = (a.astype(dtype) for a in states(checkpoint, 5))
    return in_order(checkpoint.flow, ORDERS[name]), obs, noise


# every instruction of float32 takes 45 s to compile where nothing else has asked for it
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@pytest.mark.parametrize("name", ["norm after", "residual", "both"])
@pytest.mark.parametrize("team", [False, True])
def test_compiled_programs(
    name: str, dtype: str, team: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one program, all products: jvp (shifted), vjp, and the critic's Hessian (covariance)."""
    if team:
        teams_on_small_networks(monkeypatch)
    flow, obs, noise = ordered(name, dtype)
    ran = counted(monkeypatch)
    for estimator in ("qgf", "qgf_jacobian", "bptt", "qgf_covariance", "qgf_shifted"):
        settings: Any = {"estimator": estimator, "weight": 0.3, "noise": noise}
        expected, found = both(flow, obs, 2, **settings)
        # measured 6e-7 and 1.2e-15
        np.testing.assert_allclose(found, expected, atol=3e-6 if dtype == "float32" else 1e-14)
        few = slice(1, 3)
        settings["noise"] = noise[few]
        alone = qgf_ref.sample(flow, obs[few], backend="numba", **settings)
        np.testing.assert_array_equal(alone, found[few])
    assert len(ran) == 10


@pytest.mark.parametrize("name", ["norm after", "residual", "both"])
def test_no_order_is_taken_for_another(name: str) -> None:
    flow, obs, noise = ordered(name)
    found = qgf_ref.sample(flow, obs, weight=0.3, noise=noise, backend="numba")
    for order in ORDERS.keys() - {name}:
        other = in_order(flow, ORDERS[order])
        for backend in ("numpy", "numba"):
            far = qgf_ref.sample(other, obs, weight=0.3, noise=noise, backend=backend)
            assert abs(far - found).max() > 1e-2
