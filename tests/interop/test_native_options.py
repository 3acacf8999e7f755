"""Networks that are not the official ones, told by options: files, names, widths, backends."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import Checkpoint, InputError
from qgf_ref.agents.options import Options, options_from
from qgf_ref.agents.registry import agent_named
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.interop.export import export
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.activations import activation
from qgf_ref.testing import check_sampler
from tests.conftest import small_checkpoint, states
from tests.helpers.checkpoints import OPTIONS
from tests.helpers.foreign_names import is_norm, members_first, put, tensors_of, torch_leaf

OURS: dict[str, Any] = {
    "activation": "gelu,critic=relu", "policy_inputs": "action,raw_time,obs",
    "norm_after_activation": "critic,value", "residual": "policy",
}  # fmt: skip
HIDDEN = (7, 7, 7)


def official() -> Checkpoint:
    ck = small_checkpoint(hidden=HIDDEN)
    return Checkpoint(ck.options, params=ck.params)  # without auxiliary networks


def agent(**options: Any) -> Checkpoint:
    """A small agent with these options; the policy reads one column of time where they say so."""
    ck = official()
    chosen = replace(ck.options, **options)
    first, *rest = ck.policy.layers
    if "raw_time" in (chosen.policy_inputs or ""):
        first = replace(first, kernel=first.kernel[:-15])
    params = {**ck.params, "policy": MLPParams((first, *rest))}
    return Checkpoint(chosen, params=params)


def by_hand(params: MLPParams, x: Array, name: str, last: bool, residual: bool) -> Array:
    """An MLP written once more, one member."""
    for i, layer in enumerate(params.layers):
        y = x @ layer.kernel + layer.bias
        steps = ["norm", "act"] if i < len(params.layers) - 1 else []
        for step in reversed(steps) if last else steps:
            if step == "act":
                y, _ = activation(y, name)
            elif layer.scale is not None and layer.offset is not None:
                d = y - y.mean(-1, keepdims=True)
                y = d / np.sqrt(np.mean(d * d, -1, keepdims=True) + 1e-6) * layer.scale
                y = y + layer.offset
        x = x + y if residual and 0 < i < len(params.layers) - 1 else y
    return x


def member(params: MLPParams, e: int) -> MLPParams:
    return params.map(lambda a: a[e])


def test_every_network_has_its_own() -> None:
    ck, time = agent(**OURS), 0.3
    obs, a = states(ck, 4)
    expected = by_hand(
        ck.policy, np.hstack([a, np.full((4, 1), time), obs]), "gelu", last=False, residual=True
    )
    np.testing.assert_allclose(ck.flow.field.forward(obs, a, time)[0], expected, atol=1e-12)
    for name in ("critic", "target_critic"):
        q, _ = ck.network(name).forward(obs, a)
        for e in range(2):
            one = by_hand(member(ck.params[name], e), np.hstack([obs, a]), "relu", True, False)
            np.testing.assert_allclose(q[e], one[:, 0], atol=1e-12)
    value = by_hand(ck.value, obs, "gelu", last=True, residual=False)[:, 0]
    np.testing.assert_allclose(ck.networks().value.forward(obs)[0], value, atol=1e-12)
    assert (ck.obs_dim, ck.flat_action_dim) == (5, 3)
    assert {**OURS, "source": "memory"}.items() <= ck.describe().items()
    again = pickle.loads(pickle.dumps(ck))  # noqa: S301
    np.testing.assert_allclose(again.flow.field.forward(obs, a, time)[0], expected, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"activation": "gelu,critic=relu,value=silu"}, {"policy_inputs": "obs,action,raw_time"},
     {"policy_inputs": "action,time,obs"}, {"norm_after_activation": "all"}, {"residual": "all"},
     OURS],
)  # fmt: skip
def test_backends_agree_and_files_keep_it(options: dict[str, Any], tmp_path: Path) -> None:
    ck = agent(**options)
    obs, noise = states(ck, 4)
    for estimator in ("qgf", "qgf_jacobian", "qgf_shifted"):
        arguments: dict[str, Any] = {"estimator": estimator, "weight": 0.3, "noise": noise}
        reference = qgf_ref.sample(ck.flow, obs, **arguments, backend="numpy")
        compiled = qgf_ref.sample(ck.flow, obs, **arguments, backend="numba")
        # 1.6e-12 where a LayerNorm follows a relu that leaves few units apart
        np.testing.assert_allclose(compiled, reference, rtol=0, atol=1e-11)
    for name, form in (("a.safetensors", "qgf"), ("d", "qgf"), ("a.pt", "torch"),
                       ("a.msgpack", "flax"), ("a.npz", "npz")):  # fmt: skip
        export(ck, tmp_path / name, form)
        again = qgf_ref.load(tmp_path / name)
        assert again.options == ck.options and again.agent == ck.agent
        np.testing.assert_array_equal(again.flow.field.forward(obs, noise, 0.5)[0],
                                      ck.flow.field.forward(obs, noise, 0.5)[0])  # fmt: skip


def test_norms_on_chosen_layers_come_back(tmp_path: Path) -> None:
    """Our own files' numbers are those of layers: no gap is seen where a layer has no LayerNorm."""
    ck = official()
    first, second, *rest = ck.policy.layers
    ck = ck.with_params(policy=MLPParams((replace(first, scale=None, offset=None), second, *rest)))
    for name, form in (("a.pt", "torch"), ("a.msgpack", "flax"), ("a.npz", "npz")):
        export(ck, tmp_path / name, form)
        layers = qgf_ref.load(tmp_path / name).policy.layers
        assert [layer.scale is not None for layer in layers] == [False, True, False, False]


def test_what_is_official_is_not_written_down_and_what_is_not_is_refused_by_old_readers() -> None:
    plain = official().options
    said = replace(
        plain, activation="gelu,critic=gelu", norm_after_activation="none", residual="none"
    )
    assert said == plain and said.stored() == plain.stated()
    assert agent(policy_inputs="obs, action, time").options == plain
    cases: tuple[dict[str, Any], ...] = (
        {"policy_inputs": "action,time,obs"},
        {"residual": "all"},
        OURS,
    )
    for options in cases:
        # an old release knows activations by name only, and passes over options that it lacks
        stored = agent(**options).options.stored()["activation"]
        with pytest.raises(InputError, match="unknown activation"):
            activation(np.zeros(1), stored)
    chosen = options_from({**OPTIONS, "residual": True, "policy_inputs": ["obs", "raw_time",
                           "action"], "norm_after_activation": False}, "x")  # fmt: skip
    assert (chosen.residual, chosen.policy_inputs) == ("all", "obs,raw_time,action")
    assert chosen.norm_after_activation is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"activation": "gelu,critic"}, r"activation must be one value, or one for all and then"),
    ({"activation": "critic=relu"}, r"does not say what holds for the other networks"),
    ({"activation": "gelu,critic=tanhh"}, r"unknown activation 'tanhh'"),
    ({"activation": "gelu,judge=relu"}, r"unknown network in activation 'judge'.*all, critic, po"),
    ({"activation": "gelu,target_critic=relu"}, r"unknown network in activation 'target_critic'"),
    ({"policy_inputs": "obs,action"}, r"policy_inputs must name obs, action and time \(embedded\)"),
    ({"policy_inputs": "obs,action,raw_time,time"}, r"got obs,action,raw_time,time"),
    ({"policy_inputs": "obs,action,label,time"}, r"the policy of the agent iql reads obs, action"),
    ({"policy_inputs": "obs,action,raw_time"}, r"takes 24 .*it must take 9. That fits a time that "
     r"is embedded: --policy-inputs obs,action,time"),
    ({"norm_after_activation": "all,critic"}, r"norm_after_activation must name the networks"),
    ({"norm_after_activation": "critics"}, r"unknown network in norm_after_activation 'critics'"),
    ({"residual": ""}, r"residual must name the networks that it holds for"),
    ({"residual": 3}, r"residual must name networks, such as critic,value; got 3"),
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=str)
def test_bad_options(options: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    values, message = options
    export(official(), tmp_path / "a.npz", "npz")
    with pytest.raises(InputError, match=message):
        qgf_ref.load(tmp_path / "a.npz", **values)


def test_what_arrays_contradict_is_said() -> None:
    small = small_checkpoint()  # widths that differ from layer to layer
    for who, message in (
        ("policy", "residual says policy, but the policy has no hidden layer after the first"),
        ("all", "residual says all, but no network has a hidden layer after the first"),
    ):
        with pytest.raises(InputError, match=message):
            replace(small, options=replace(small.options, residual=who))
    fql = agent_named("fql")
    rng = np.random.default_rng(0)
    params = fql.initial(rng, 5, 3, (6,), 2)
    with pytest.raises(InputError, match="the agent fql has no flow that could read them"):
        Checkpoint(replace(small.options, policy_inputs="obs,action,raw_time"), params=params,
                   agent=fql)  # fmt: skip
    by_name = replace(small.options, activation="gelu,actor_onestep_flow=relu")
    made = Checkpoint(by_name, params=params, agent=fql)
    assert made.network("actor_onestep_flow").options.activation == "relu"
    assert made.network("actor_bc_flow").options.activation == "gelu"


def named(ck: Checkpoint, places: tuple[int, ...]) -> dict[str, Array]:
    """The critic's modules in a list: how far behind its Linear a LayerNorm is, and the next."""
    norm, step = places

    def name(network: str, layer: int, part: str, e: int | None) -> str:
        if "critic" not in network:
            return members_first(network, layer, part, e)
        at = step * layer + norm * is_norm(part)
        return f"{network}.{e}.net.{at}.{torch_leaf(part)}"

    return tensors_of(ck, name, transposed=True, apart=True)


def test_the_order_is_seen_in_numbers_and_asked(tmp_path: Path) -> None:
    ck = agent(norm_after_activation="critic")
    path = put(tmp_path / "a.npz", named(ck, (2, 3)))  # Linear 0, activation 1, LayerNorm 2
    message = (
        r"the critic: .*between critic\.0\.net\.0 and critic\.0\.net\.2, .*say so: "
        r"--norm-after-activation critic .*\"gaps\": \"as ours\".*adapters\.torch"
    )
    with pytest.raises(InputError, match=message):
        qgf_ref.load(path, **OPTIONS)
    for told in ("critic", "all"):
        loaded = qgf_ref.load(path, norm_after_activation=told, **OPTIONS)
        assert loaded.options.norm_after_activation == told
        for ours, theirs in zip(loaded.critic.arrays(), ck.critic.arrays(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    # the other order, told the same: Linear 0, LayerNorm 1, activation 2
    path = put(tmp_path / "b.npz", named(ck, (1, 3)))
    qgf_ref.load(path, **OPTIONS)
    with pytest.raises(InputError, match="where nothing follows a LayerNorm with norm_after_act"):
        qgf_ref.load(path, norm_after_activation="critic", **OPTIONS)
    # an activation that has no number leaves both open
    path = put(tmp_path / "c.npz", named(ck, (1, 2)))
    for either in (None, "critic"):
        qgf_ref.load(path, norm_after_activation=either, **OPTIONS)
    # Dropout between: neither
    path = put(tmp_path / "d.npz", named(ck, (3, 4)))
    for either in (None, "critic"):
        with pytest.raises(InputError, match="leaves room for 2 modules") as caught:
            qgf_ref.load(path, norm_after_activation=either, **OPTIONS)
        assert "say so" not in str(caught.value)


def blocks(inner: tuple[str, ...]) -> dict[str, Array]:
    """A policy of two residual blocks, each of Linears of these names."""
    tensors = named(official(), (1, 3))
    rng = np.random.default_rng(0)
    tensors = {n: a for n, a in tensors.items() if not n.startswith("Policy")}
    shapes = {"actor.inlet": (7, 24), "actor.outlet": (3, 7)}
    shapes |= {f"actor.res_blocks.{i}.{name}": (7, 7) for i in range(2) for name in inner}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0])
    return tensors


def test_residual_names_are_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", blocks(("linear",)))
    with pytest.raises(InputError, match=r"by its names \(actor\.res_blocks\.0\).*--residual pol"):
        qgf_ref.load(path, **OPTIONS)
    with pytest.raises(InputError, match="has residual blocks by its names"):
        qgf_ref.load(path, residual="critic", **OPTIONS)
    assert qgf_ref.load(path, residual="policy", **OPTIONS).options.residual == "policy"
    assert qgf_ref.load(path, residual="none", **OPTIONS).options.residual is None
    path = put(tmp_path / "b.npz", blocks(("linear1", "linear2")))
    for said in (None, "policy"):
        with pytest.raises(InputError, match=r"blocks of 2 kernels .*adapters\.torch"):
            qgf_ref.load(path, residual=said, **OPTIONS)


def test_a_learned_time_embedding_is_told(tmp_path: Path) -> None:
    tensors = named(official(), (1, 3))
    for name, shape in (("0", (32, 16)), ("2", (16, 32))):
        tensors[f"PolicyNet.time_mlp.{name}.weight"] = np.ones(shape)
        tensors[f"PolicyNet.time_mlp.{name}.bias"] = np.ones(shape[0])
    path = put(tmp_path / "a.npz", tensors)
    with pytest.raises(InputError, match=r"learned time embedding \(PolicyNet\.time_mlp.*adapters"):
        qgf_ref.load(path, **OPTIONS)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ck = agent(**OURS)
    path = put(tmp_path / "a.npz", named(ck, (2, 3)))
    words = [w for n, v in OURS.items() for w in (f"--{n.replace('_', '-')}", v)]
    words += ["--q-aggregation", "min", "--denoise-steps", "6", "--horizon-length", "1"]
    target = str(tmp_path / "b.safetensors")
    # the value's norms have numbers of their own
    assert main(["convert", str(path), target, *words, "--action-chunking"]) == 0
    assert "norm_after_activation critic,value; residual policy" in capsys.readouterr().out
    again = qgf_ref.load(target)
    assert again.options.stated() | OURS == again.options.stated()
    flags = {**OPTIONS, **OURS, "norm_after_activation": ["critic", "value"]}
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    assert qgf_ref.load(path).options.residual == "policy"


def test_a_port_of_these_networks_is_right() -> None:
    ck = agent(**OURS, layer_norm_eps=1e-5)
    flow = ck.astype("float32").guided_flow(embedding="float32")

    def port(obs: Any, noise: Any, weight: float) -> Any:
        return qgf_ref.sample(flow, obs, weight=weight, noise=noise)

    assert check_sampler(port, ck, rows=8, coverage=False)


@pytest.mark.slow
def test_a_critic_in_the_other_order_is_named() -> None:
    ck = agent(**OURS, layer_norm_eps=1e-5)
    flow = ck.astype("float32").guided_flow(embedding="float32")

    def port(obs: Any, noise: Any, weight: float) -> Any:
        return qgf_ref.sample(flow, obs, weight=weight, noise=noise)

    order = replace(ck, options=replace(ck.options, norm_after_activation=None))
    with pytest.raises(CrossCheckError, match=r"activation-before-norm \(in the critic only\)"):
        check_sampler(port, order, rows=8, coverage=False)


def test_a_flow_of_one_checkpoint_with_the_critic_of_another() -> None:
    ours = agent(policy_inputs="obs,action,raw_time")
    both = qgf_ref.load(policy=ours, critic=small_checkpoint(hidden=HIDDEN, seed=3))
    assert both.agent.name == "iql" and both.options.policy_inputs == "obs,action,raw_time"
    other = qgf_ref.load(policy=official(), critic=ours)
    assert other.options == official().options
    with pytest.raises(InputError, match="residual policy, but the critic's memory None"):
        qgf_ref.load(policy=agent(residual="policy"), critic=official())


def test_options_are_what_they_say() -> None:
    options = Options("gelu, critic=relu", "min", 4, 1, True, norm_after_activation="value")
    assert options.activation == "gelu,critic=relu"
    assert options.mlp_of("critic").activation == "relu"
    assert options.mlp_of("policy").activation == "gelu"
    assert options.mlp_of("value").norm_after_activation and not options.mlp.norm_after_activation
