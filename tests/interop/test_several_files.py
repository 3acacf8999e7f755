"""Checkpoints in several files: shards, directories, caches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.flax_msgpack import msgpack_bytes
from tests.helpers.checkpoints import OPTIONS, flax_tree, same
from tests.helpers.foreign_names import (
    NETWORKS,
    OURS,
    WEIGHTS,
    put,
)

# --- several files -----------------------------------------------------------------------------


def shards(place: Path) -> Path:
    place.mkdir()
    names = sorted(WEIGHTS)
    where: dict[str, str] = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({n: np.ascontiguousarray(WEIGHTS[n]) for n in part}, place / file)
        where |= dict.fromkeys(part, file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return place


def test_shards(tmp_path: Path) -> None:
    place = shards(tmp_path / "d")
    index, second = place / "model.safetensors.index.json", "model-00002-of-00002.safetensors"
    same(qgf_ref.load(place, **OPTIONS), OURS)
    same(qgf_ref.load(index, **OPTIONS), OURS)
    with pytest.raises(InputError, match="is part 2 of 2: give their index"):
        qgf_ref.load(place / second, **OPTIONS)
    whole = index.read_text()
    for text, message in (
        ("{}", "index of no shards"),
        (whole.replace("critic.0", "critic.9"), "its shards lack"),
        (whole.replace("-00002-of", "-00003-of"), "which are not beside it"),
        (whole.replace("model-00002", "../x"), "which are not beside it"),
    ):
        index.write_text(text)
        with pytest.raises(InputError, match=message):
            qgf_ref.load(place, **OPTIONS)
    index.unlink()
    same(qgf_ref.load(place, **OPTIONS), OURS)


def test_a_directory_with_one_file(tmp_path: Path) -> None:
    for suffix in (".npz", ".ckpt", ".bin", ""):
        place = tmp_path / f"d{suffix}"
        place.mkdir()
        written = put(place / "a.npz", WEIGHTS)
        written.rename(place / f"agent{suffix}") if suffix else written.rename(place / "b.npz")
        (place / "optimizer.bin").write_bytes(b"\x80\x02}.")
        (place / "random_states_0.pkl").write_bytes(b"\x80\x02}.")
        (place / "notes.txt").write_text("x")
        same(qgf_ref.load(place, **OPTIONS), OURS)
    (tmp_path / "flax").mkdir()
    tree = {n: flax_tree(getattr(OURS, n), n) for n in NETWORKS}
    (tmp_path / "flax" / "checkpoint_1000").write_bytes(msgpack_bytes(tree))
    same(qgf_ref.load(tmp_path / "flax", **OPTIONS), OURS)


def test_a_directory_with_a_file_for_each_network(tmp_path: Path) -> None:
    for head, word in (("PolicyNet", "actor"), ("critic", "critic"), ("ValueFunction", "value"),
                       ("target.critic", "critic_target")):  # fmt: skip
        own = {
            k.removeprefix(f"{head}."): a for k, a in WEIGHTS.items() if k.startswith(f"{head}.")
        }
        put(tmp_path / f"{word}.npz", own)
    same(qgf_ref.load(tmp_path, **OPTIONS), OURS)
    put(tmp_path / "encoder.npz", {"weight": OURS.policy.layers[0].kernel})
    with pytest.raises(InputError, match=r"found: actor.npz, .*: name one"):
        qgf_ref.load(tmp_path, **OPTIONS)


def test_a_damaged_file_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    """Is named with what to do: it would be found damaged for ever."""
    place = tmp_path / "hub" / "models--me--agent" / "snapshots" / "5185163"
    place.mkdir(parents=True)
    whole = shards(tmp_path / "d")
    part = (whole / "model-00001-of-00002.safetensors").read_bytes()
    for name, data in (("a.safetensors", part[:-9]), ("b.pt", b""), ("c.npz", b"PK\3\4")):
        (place / name).write_bytes(data)
        with pytest.raises(InputError, match=r"cache: remove .*/models--me--agent, and it"):
            qgf_ref.load(place / name, **OPTIONS)
    (place / "d.safetensors").write_bytes(part)
    with pytest.raises(InputError) as caught:
        qgf_ref.load(place / "d.safetensors", **OPTIONS)
    assert "cache" not in str(caught.value)


@pytest.mark.parametrize("name", [".metadata", "zero_to_fp32.py", "saved_model.pb"])
def test_directories_of_other_libraries(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"dcp_to_torch|DeepSpeed|SavedModel"):
        qgf_ref.load(tmp_path, **OPTIONS)
