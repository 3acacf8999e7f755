"""Checkpoints: official pickles without JAX and without trust, our own format, bad files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import Golden, small_checkpoint

OPTIONS: dict[str, Any] = {
    "activation": "gelu",
    "q_aggregation": "min",
    "denoise_steps": 6,
    "horizon_length": 1,
    "action_chunking": True,
    "discount": 0.9,
    "expectile": 0.8,
}


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def flax_tree(params: MLPParams, network: str) -> dict[str, Any]:
    layers = [({"kernel": x.kernel, "bias": x.bias}, x.scale, x.offset) for x in params.layers]
    trunk: dict[str, Any] = {}
    for i, (dense, scale, offset) in enumerate(layers):
        trunk[f"Dense_{i}"] = dense
        if scale is not None:
            trunk[f"LayerNorm_{i}"] = {"scale": scale, "bias": offset}
    if network != "policy":
        return {"value_net": trunk}
    head = trunk.pop(f"Dense_{len(layers) - 1}")
    return {"MLP_0": trunk, "Dense_0": head}


def official_tree(ck: Checkpoint) -> dict[str, Any]:
    agent: dict[str, Any] = {"rng": np.zeros(2, np.uint32)}
    for network in ("policy", "critic", "target_critic", "value"):
        tree = flax_tree(getattr(ck, network), network)
        agent[network] = {"step": 1, "params": tree, "opt_state": None}
    return {"agent": agent}


def write(path: Path, tree: Any, flags: dict[str, Any] | None = None, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    if flags is not None:
        path.with_name("flags.json").write_text(json.dumps({"agent": flags}))
    return path


def same(a: Checkpoint, b: Checkpoint) -> None:
    for network in ("policy", "critic", "target_critic", "value"):
        x, y = getattr(a, network), getattr(b, network)
        assert [n for n, _ in x.named()] == [n for n, _ in y.named()]
        for p, q in zip(x.arrays(), y.arrays(), strict=True):
            np.testing.assert_array_equal(p, q)
    assert a.options == b.options


def test_golden_checkpoints_load(golden_official: Golden) -> None:
    ck = golden_official.load("float32")
    config = json.loads((golden_official.path / "config.json").read_text())
    assert ck.obs_dim == config["obs_dim"]
    assert ck.action_dim == config["action_dim"]
    assert ck.target_critic.ensemble == config["num_qs"]
    for name in ("activation", "q_aggregation", "denoise_steps", "horizon_length", "expectile"):
        assert getattr(ck.options, name) == config[name]
    hidden = [layer.kernel.shape[-1] for layer in ck.policy.layers[:-1]]
    assert hidden == config["actor_hidden_dims"]
    assert (ck.policy.layers[0].scale is not None) == config["use_layer_norm"]
    assert ck.dtype == "float32"


IMPORTS = (
    "import sys, qgf_ref; qgf_ref.load(sys.argv[1]);"
    "bad = [m for m in ('jax', 'flax', 'torch', 'tensorflow') if m in sys.modules];"
    "sys.exit(str(bad) if bad else 0)"
)


def test_reading_never_imports_jax(tmp_path: Path) -> None:
    path = write(tmp_path / "params_1.pkl", official_tree(small_checkpoint()), OPTIONS)
    subprocess.run([sys.executable, "-c", IMPORTS, str(path)], check=True)


def test_reading_a_jax_pickle_never_imports_jax(golden: Golden) -> None:
    path = str(golden.path / "params_0.pkl")
    subprocess.run([sys.executable, "-c", IMPORTS, path], check=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_protocol_of_numpy_streams(tmp_path: Path, protocol: int, dtype: str) -> None:
    ck = small_checkpoint(dtype=dtype)
    path = write(tmp_path / "params_1.pkl", official_tree(ck), OPTIONS, protocol)
    same(qgf_ref.load(path, dtype=dtype), ck)


def test_missing_options_are_asked_for(tmp_path: Path) -> None:
    ck = small_checkpoint()
    path = write(tmp_path / "params_1.pkl", official_tree(ck))
    with pytest.raises(InputError, match=r"no flags.json.*does not say: activation.*--activation"):
        qgf_ref.load(path)
    same(qgf_ref.load(path, **OPTIONS), ck)
    some = {k: v for k, v in OPTIONS.items() if k not in ("discount", "expectile")}
    write(path, official_tree(ck), some)
    with pytest.raises(InputError, match="does not say: discount, expectile"):
        qgf_ref.load(path)
    same(qgf_ref.load(path, discount=0.9, expectile=0.8), ck)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gleu"}, "unknown activation"),
        ({"q_aggregation": "max"}, "unknown aggregation"),
        ({"denoise_steps": 0}, "flags.json: denoise_steps must be from 1 to 100000, got 0"),
        ({"denoise_steps": "ten"}, "must be of type int"),
        ({"horizon_length": 2}, "not a multiple of horizon_length"),
        ({"horizon_length": 0}, "horizon_length must be from 1"),
        ({"discount": 2.0}, "discount must lie in"),
        ({"value_network_class": "BroNet"}, "BroNet"),
    ],
)
def test_bad_options(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tree = official_tree(small_checkpoint())
    path = write(tmp_path / "params_1.pkl", tree, OPTIONS | change)
    with pytest.raises(InputError, match=message):
        qgf_ref.load(path)


def test_bad_flags_and_paths(tmp_path: Path) -> None:
    path = write(tmp_path / "params_1.pkl", official_tree(small_checkpoint()))
    for text, message in (("{", "not valid JSON"), ("[]", "JSON object"), ('{"agent": 3}', "obj")):
        (tmp_path / "flags.json").write_text(text)
        with pytest.raises(InputError, match=message):
            qgf_ref.load(path)
    with pytest.raises(InputError, match="no checkpoint at"):
        qgf_ref.load(tmp_path / "nothing.pkl")
    with pytest.raises(InputError, match="unknown option denoise"):
        qgf_ref.load(path, denoise=3)
    with pytest.raises(InputError, match="dtype must be one of float32, float64"):
        qgf_ref.load(dtype="float16")
    shutil.copy(path, tmp_path / "params_2.pkl")
    with pytest.raises(InputError, match=r"found: params_1.pkl, params_2.pkl"):
        qgf_ref.load(tmp_path)


def test_a_single_critic_without_an_ensemble_axis(tmp_path: Path) -> None:
    """num_qs = 1 is stored without the axis (official.md, D4)."""
    ck = small_checkpoint(members=1)
    tree = official_tree(ck)
    for name in ("critic", "target_critic"):
        squeezed = getattr(ck, name).map(lambda a: a[0])
        tree["agent"][name]["params"] = flax_tree(squeezed, name)
    same(qgf_ref.load(write(tmp_path / "params_1.pkl", tree, OPTIONS)), ck)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop("critic"), "has no 'critic'"),
        (lambda a: a["policy"].pop("params"), "has no 'params'"),
        (lambda a: a["policy"]["params"].pop("Dense_0"), "has no 'Dense_0'"),
        (lambda a: a["value"]["params"]["value_net"].update(Extra_0={}), "Extra_0"),
        (lambda a: a["value"]["params"]["value_net"]["Dense_0"].pop("bias"), "has no 'bias'"),
        (
            lambda a: a["value"]["params"]["value_net"]["Dense_0"].update(bias=np.full(11, np.nan)),
            "must be finite",
        ),
        (
            lambda a: a["value"]["params"]["value_net"]["Dense_0"].update(bias=np.zeros(3)),
            r"bias of layer 0 of value has shape \(3,\), expected \(11,\)",
        ),
        (
            lambda a: a["value"]["params"]["value_net"]["Dense_1"].update(kernel=np.zeros((4, 10))),
            "layer 1 of the value takes 4 features, but the layer before gives 11",
        ),
        (
            lambda a: a["policy"]["params"]["MLP_0"]["Dense_0"].update(kernel=np.zeros((9, 11))),
            "first layer takes 9 features.*must take 24",
        ),
    ],
)
def test_damaged_trees(tmp_path: Path, damage: Any, message: str) -> None:
    tree = official_tree(small_checkpoint())
    damage(tree["agent"])
    with pytest.raises(InputError, match=message):
        qgf_ref.load(write(tmp_path / "params_1.pkl", tree, OPTIONS))


def test_not_a_qgf_pickle(tmp_path: Path) -> None:
    trees: list[Any] = [[1, 2], {"weights": 1}, {"agent": {"network": {}}}]
    for tree in trees:
        with pytest.raises(InputError, match="is it a QGF checkpoint"):
            qgf_ref.load(write(tmp_path / "params_1.pkl", tree, OPTIONS))


@pytest.mark.parametrize("name", ["model.safetensors", "directory"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_our_format_round_trips(tmp_path: Path, name: str, dtype: str) -> None:
    ck = small_checkpoint(dtype=dtype, aggregation="mean")
    save_checkpoint(ck, tmp_path / name)
    same(qgf_ref.load(tmp_path / name, dtype=dtype), ck)
    overridden = qgf_ref.load(tmp_path / name, denoise_steps=3)
    assert overridden.options == replace(ck.options, denoise_steps=3)
    assert not list(tmp_path.rglob(".*")), "no temporary file is left"


def test_bad_files_of_our_format(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_checkpoint(small_checkpoint(), path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a readable safetensors file"):
            qgf_ref.load(path)
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(InputError, match="not a qgf_ref checkpoint"):
        qgf_ref.load(path)
    metadata = {"format": "qgf_ref.checkpoint", "version": "2", "options": json.dumps(OPTIONS)}
    save_file({"a": np.zeros(2)}, path, metadata)
    with pytest.raises(InputError, match="version '2'"):
        qgf_ref.load(path)
    metadata["version"] = "1"
    save_file({"a": np.zeros(2)}, path, metadata)
    with pytest.raises(InputError, match="unexpected tensor a"):
        qgf_ref.load(path)
    save_file({"policy.layers.0.kernel": np.zeros((2, 2))}, path, metadata)
    with pytest.raises(InputError, match="layer 0 of the policy lacks bias"):
        qgf_ref.load(path)
    for text, message in (("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "not say")):
        save_file({}, path, metadata | {"options": text})
        with pytest.raises(InputError, match=message):
            qgf_ref.load(path)


def test_the_embedded_checkpoint() -> None:
    ck = qgf_ref.load()
    assert (ck.obs_dim, ck.action_dim, ck.flat_action_dim) == (28, 5, 25)
    assert qgf_ref.embedded_observations().shape == (256, 28)
    size = sum(p.stat().st_size for p in (Path(qgf_ref.__file__).parent / "assets").iterdir())
    assert size <= 3e6


def test_writing_where_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot"):
        save_checkpoint(small_checkpoint(), tmp_path / "file" / "model.safetensors")
    with pytest.raises(InputError, match="cannot make"):
        save_checkpoint(small_checkpoint(), tmp_path / "file" / "directory")


def test_what_is_given_beats_what_is_stored(tmp_path: Path) -> None:
    ck = small_checkpoint()
    path = write(tmp_path / "params_1.pkl", official_tree(ck), OPTIONS)
    given = qgf_ref.load(path, denoise_steps=np.int64(3), discount=np.float32(0.5))
    assert (given.options.denoise_steps, given.options.discount) == (3, 0.5)
    (tmp_path / "flags.json").write_text(json.dumps(OPTIONS | {"denoise_steps": 4}))
    assert qgf_ref.load(path).options.denoise_steps == 4, "flags without 'agent' are flags too"


def test_the_width_of_one_action() -> None:
    ck = small_checkpoint()
    chunked = replace(ck, options=replace(ck.options, horizon_length=3, action_chunking=True))
    single = replace(ck, options=replace(ck.options, horizon_length=3, action_chunking=False))
    assert (chunked.action_dim, single.action_dim) == (1, 3)


def test_arrays_in_any_memory_order_survive(tmp_path: Path) -> None:
    """safetensors writes memory as it lies: Fortran order would come back transposed."""
    ck = small_checkpoint()
    fortran = replace(ck, policy=ck.policy.map(np.asfortranarray))
    for name in ("model.safetensors", "directory"):
        save_checkpoint(fortran, str(tmp_path / name))
        same(qgf_ref.load(tmp_path / name), ck)
    path = write(tmp_path / "params_1.pkl", official_tree(fortran), OPTIONS, 5)
    save_checkpoint(qgf_ref.load(path), tmp_path / "again.safetensors")
    same(qgf_ref.load(tmp_path / "again.safetensors"), ck)


def test_config_json_of_a_directory_wins(tmp_path: Path) -> None:
    save_checkpoint(small_checkpoint(), tmp_path / "d")
    config = tmp_path / "d" / "config.json"
    options = json.loads(config.read_text())
    assert options["denoise_steps"] == 6
    config.write_text(json.dumps(options | {"denoise_steps": 9}))
    assert qgf_ref.load(tmp_path / "d").options.denoise_steps == 9
    for text, message in (("garbage", "not valid JSON"), ("[1]", "not a JSON object")):
        config.write_text(text)
        with pytest.raises(InputError, match=f"config.json {message}|config.json is {message}"):
            qgf_ref.load(tmp_path / "d")


def test_nan_in_our_format_is_refused(tmp_path: Path) -> None:
    ck = small_checkpoint()
    bad = replace(ck, value=ck.value.map(lambda a: np.full_like(a, np.nan)))
    save_checkpoint(bad, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"value\.layers\.0\.\w+ must be finite"):
        qgf_ref.load(tmp_path / "m.safetensors")


def test_a_pickle_by_any_other_name(tmp_path: Path) -> None:
    for name in ("params_1.PKL", "params_1", "params_1.bin"):
        same(
            qgf_ref.load(write(tmp_path / name, official_tree(small_checkpoint()), OPTIONS)),
            small_checkpoint(),
        )


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(small_checkpoint(), path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(small_checkpoint(seed=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match="no regular file"):
        save_checkpoint(small_checkpoint(), tmp_path / "pipe.safetensors")


MALFORMED: dict[str, tuple[Any, str]] = {
    "policy with members": (lambda t: _lead(t, "policy", 2), "layer 0 of the policy.*no ensemble"),
    "value with members": (lambda t: _lead(t, "value", 2), "layer 0 of the value.*no ensemble"),
    "another number of members": (lambda t: _lead(t, "critic", 3), "critic.*expected 2 members"),
    "members of one layer": (
        lambda t: t.update({"critic.layers.1.kernel": t["critic.layers.1.kernel"][:1]}),
        "of layer 1 of critic has shape|layer 1 of the critic has kernels",
    ),
    "no members": (lambda t: _lead(t, "target_critic", 0), "no ensemble members"),
    "two outputs": (lambda t: _outputs(t, "critic"), "critic has 2 outputs, not 1"),
    "two values": (lambda t: _outputs(t, "value"), "value has 2 outputs, not 1"),
    "a gap": (lambda t: t.pop("value.layers.1.kernel"), "layer 1 of the value lacks kernel"),
    "half a LayerNorm": (
        lambda t: t.pop("value.layers.1.scale"),
        "layer 1 of the value lacks scale",
    ),
    "integers": (
        lambda t: t.update({"value.layers.0.bias": np.zeros(11, np.int64)}),
        "must hold floats, not int64",
    ),
    "a scalar kernel": (
        lambda t: t.update({"value.layers.0.kernel": np.zeros(())}),
        "2 or 3 axes",
    ),
    "a padded index": (
        lambda t: t.update({"value.layers.00.kernel": np.zeros((2, 2))}),
        "unexpected tensor value.layers.00.kernel",
    ),
    "a superscript index": (
        lambda t: t.update({"value.layers.².kernel": np.zeros((2, 2))}),
        "unexpected tensor",
    ),
    "an endless index": (
        lambda t: t.update({f"value.layers.{'9' * 5000}.kernel": np.zeros((2, 2))}),
        "unexpected tensor",
    ),
}


def _lead(tensors: dict[str, Any], network: str, members: int) -> None:
    for name, a in tensors.items():
        if name.startswith(f"{network}."):
            one = a[0] if network.endswith("critic") else a
            tensors[name] = np.ascontiguousarray(np.repeat(one[None], members, axis=0))


def _outputs(tensors: dict[str, Any], network: str) -> None:
    for part in ("kernel", "bias"):
        name = f"{network}.layers.3.{part}"
        tensors[name] = np.ascontiguousarray(np.repeat(tensors[name], 2, axis=-1))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_networks(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    damage, message = MALFORMED[name]
    path = tmp_path / "m.safetensors"
    save_checkpoint(small_checkpoint(), path)
    tensors = load_file(path)
    damage(tensors)
    metadata = {"format": "qgf_ref.checkpoint", "version": "1", "options": json.dumps(OPTIONS)}
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=message):
        qgf_ref.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"discount": 1' + "0" * 400 + "}"])
def test_json_that_overflows(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "params_1.pkl", official_tree(small_checkpoint()))
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(InputError):
        qgf_ref.load(path, **({} if text[0] == "[" else OPTIONS | {"discount": None}))
