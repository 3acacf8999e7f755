"""Checkpoints: official pickles without JAX and without trust, our own format, bad files."""

from __future__ import annotations

import json
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
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import Golden, small_checkpoint
from tests.helpers.checkpoints import OPTIONS, flax_tree, official_tree, same, write


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
    sampling = qgf_ref.load(path)
    assert sampling.options.discount is None
    assert sampling.flow.denoise_steps == 6, "γ and τ are not the sampler's"
    with pytest.raises(InputError, match=r"does not say: discount, which a training.*--discount"):
        sampling.hyperparameters()
    save_checkpoint(sampling, tmp_path / "m.safetensors")
    assert qgf_ref.load(tmp_path / "m.safetensors").options == sampling.options
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


def test_a_pickle_by_any_other_name(tmp_path: Path) -> None:
    for name in ("params_1.PKL", "params_1", "params_1.bin"):
        same(
            qgf_ref.load(write(tmp_path / name, official_tree(small_checkpoint()), OPTIONS)),
            small_checkpoint(),
        )


@pytest.mark.parametrize("text", ["[" * 100_000, '{"discount": 1' + "0" * 400 + "}"])
def test_json_that_overflows(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "params_1.pkl", official_tree(small_checkpoint()))
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(InputError):
        qgf_ref.load(path, **({} if text[0] == "[" else OPTIONS | {"discount": None}))
