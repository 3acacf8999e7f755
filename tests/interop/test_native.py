"""Our own checkpoint format: round trips, hand-made damage, and writing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, same, write


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
        message = "not a readable safetensors file" if size else "is empty"
        with pytest.raises(InputError, match=message):
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


def test_arrays_in_any_memory_order_survive(tmp_path: Path) -> None:
    """safetensors writes memory as it lies: Fortran order would come back transposed."""
    ck = small_checkpoint()
    fortran = ck.with_params(policy=ck.policy.map(np.asfortranarray))
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
    bad = ck.with_params(value=ck.value.map(lambda a: np.full_like(a, np.nan)))
    save_checkpoint(bad, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"value\.layers\.0\.\w+ must be finite"):
        qgf_ref.load(tmp_path / "m.safetensors")


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
