"""Checkpoints: official pickles without JAX and without trust, our own format, bad files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.unpickle import read_pickle
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


def test_reading_never_imports_jax(golden: Golden) -> None:
    code = (
        "import sys, qgf_ref; qgf_ref.load(sys.argv[1]);"
        "bad = [m for m in ('jax', 'flax', 'torch', 'tensorflow') if m in sys.modules];"
        "sys.exit(str(bad) if bad else 0)"
    )
    path = str(golden.path / "params_0.pkl")
    subprocess.run([sys.executable, "-c", code, path], check=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_protocol_of_numpy_streams(tmp_path: Path, protocol: int, dtype: str) -> None:
    ck = small_checkpoint(dtype=dtype)
    path = write(tmp_path / "params_1.pkl", official_tree(ck), OPTIONS, protocol)
    same(qgf_ref.load(path, dtype=dtype), ck)


def test_numpy_1_and_2_module_names_and_endianness(tmp_path: Path) -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    tree = {
        "a": matrix,
        "b": np.float32(2.5),
        "c": np.arange(3, dtype=">f4"),
        "d": np.asfortranarray(matrix),
        "e": OrderedDict(x=1),
    }
    for protocol in (2, 4):
        stream = pickle.dumps(tree, protocol=protocol)
        for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
            renamed = stream.replace(old, new) if protocol == 2 else _rename(stream, old, new)
            path = tmp_path / "x.pkl"
            path.write_bytes(renamed)
            read = read_pickle(path)
            for key, value in tree.items():
                np.testing.assert_array_equal(read[key], value)
            assert read["c"].dtype == np.dtype("float32").newbyteorder("=")


def _rename(stream: bytes, old: bytes, new: bytes) -> bytes:
    """Rename modules inside SHORT_BINUNICODE strings of an unframed-length-tolerant stream."""
    out = bytearray()
    i = 0
    while i < len(stream):
        if stream[i : i + 1] == b"\x8c":
            size = stream[i + 1]
            text = stream[i + 2 : i + 2 + size].replace(old, new)
            out += b"\x8c" + bytes([len(text)]) + text
            i += 2 + size
        else:
            out.append(stream[i])
            i += 1
    # the frame's length is written after PROTO as FRAME + 8 bytes
    if out[2:3] == b"\x95":
        out[3:11] = struct.pack("<Q", len(out) - 11)
    return bytes(out)


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (lambda target: Evil(os.system, f"touch {target}"), r"posix\.system|nt\.system"),
        (lambda target: Evil(eval, f"open({str(target)!r}, 'w')"), r"builtins\.eval"),
        (lambda target: Evil(subprocess.call, ["touch", str(target)]), r"subprocess\.call"),
        (lambda target: Evil(getattr, {}, "keys"), r"builtins\.getattr"),
        (lambda target: Path(target), r"pathlib"),
    ],
)
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, payload: Any, named: str) -> None:
    target = tmp_path / "pwned"
    tree = official_tree(small_checkpoint())
    tree["agent"]["policy"]["step"] = payload(target)
    path = write(tmp_path / "params_1.pkl", tree, OPTIONS)
    with pytest.raises(InputError, match=named):
        qgf_ref.load(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([None, 1]), "array"),
        (np.array(["a"]), "dtype"),
        (np.array([1 + 2j]), "dtype"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype"),
    ],
)
def test_arrays_that_are_not_numbers_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path / "x.pkl", {"a": value})
    with pytest.raises(InputError, match=f"is refused.*{message}"):
        read_pickle(path)


def test_a_stream_cannot_change_the_stand_ins(tmp_path: Path) -> None:
    """BUILD on a whitelisted name, and an array whose shape does not match its bytes."""
    change = b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb."
    path = tmp_path / "x.pkl"
    path.write_bytes(change)
    with pytest.raises(InputError, match=r"a change of numpy\.dtype"):
        read_pickle(path)
    stream = pickle.dumps({"a": np.zeros(3, np.float32)}, protocol=2)
    path.write_bytes(stream.replace(b"K\x03\x85", b"K\x63\x85"))
    with pytest.raises(InputError, match=r"shape \(99,\) with 12 bytes"):
        read_pickle(path)


def test_truncated_and_corrupt_pickles(tmp_path: Path) -> None:
    whole = pickle.dumps(official_tree(small_checkpoint()), protocol=4)
    rng = np.random.default_rng(0)
    path = tmp_path / "params_1.pkl"
    (tmp_path / "flags.json").write_text(json.dumps(OPTIONS))
    for size in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="truncated or corrupt"):
            qgf_ref.load(path)
    for _ in range(300):
        broken = bytearray(whole)
        for position in rng.integers(0, 3000, size=3):
            broken[position] = rng.integers(256)
        path.write_bytes(bytes(broken))
        try:
            qgf_ref.load(path)
        except InputError:
            continue


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
