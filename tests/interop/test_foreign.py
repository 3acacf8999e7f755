"""Files of other frameworks: readers and writers, with bytes that others made as the oracle."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop import orbax_directory
from qgf_ref.interop.export import export
from qgf_ref.interop.flax_msgpack import msgpack_bytes, read_msgpack
from qgf_ref.interop.load import load_as_stored
from qgf_ref.interop.npz_file import read_npz_tensors
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, Evil, official_tree, same, write
from tests.helpers.foreign_names import damaged, drop, put

FILES = {"torch": "a.pt", "flax": "a.msgpack", "npz": "a.npz", "qgf": "a.safetensors"}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_are_bit_exact(form: str, members: int, dtype: str, tmp_path: Path) -> None:
    ck = small_checkpoint(dtype=dtype, members=members, aggregation="mean")
    export(ck, tmp_path / FILES[form], form)
    back, _ = load_as_stored(tmp_path / FILES[form], {})
    same(back, ck)
    assert back.dtype == dtype
    same(qgf_ref.load(tmp_path / FILES[form], dtype=dtype), ck)


@pytest.mark.parametrize("form", FILES)
def test_equal_checkpoints_are_equal_bytes(form: str, tmp_path: Path) -> None:
    contents = set()
    for name in ("x", "y"):
        path = tmp_path / f"{name}{FILES[form][1:]}"
        export(small_checkpoint(), path, form)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_contents_tell_the_kind_where_names_do_not(tmp_path: Path) -> None:
    for form, name in FILES.items():
        export(small_checkpoint(), tmp_path / name, form)
        same(qgf_ref.load((tmp_path / name).rename(tmp_path / f"{form}.bin")), small_checkpoint())
    # torch.save is often given .pkl
    same(qgf_ref.load((tmp_path / "torch.bin").rename(tmp_path / "a.pkl")), small_checkpoint())
    (tmp_path / "d").mkdir()
    export(small_checkpoint(), tmp_path / "d" / "a.pt", "torch")
    same(qgf_ref.load(tmp_path / "d"), small_checkpoint())


# --- flax: bytes that flax 0.12.8 wrote ----------------------------------------------------------

NESTED = (
    b"\x84\xa1a\x81\xa1b\xc7\x19\x01\x93\x91\x03\xa7float32\xc4\x0c\x00\x00\x00\x00\x00\x00\x80?"
    b"\x00\x00\x00@\xa1c\xd8\x03\x93\x90\xa7float32\xc4\x04\x00\x00 @\xa1n\x07\xa1o\xc0"
)
CHUNKED = (
    b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x82\xa10\x02\xa11\x03\xa6chunks\x83"
    b"\xa10\xc7\x15\x01\x93\x91\x02\xa7float32\xc4\x08\x00\x00\x00\x00\x00\x00\x80?"
    b"\xa11\xc7\x15\x01\x93\x91\x02\xa7float32\xc4\x08\x00\x00\x00@\x00\x00@@"
    b"\xa12\xc7\x15\x01\x93\x91\x02\xa7float32\xc4\x08\x00\x00\x80@\x00\x00\xa0@"
)
COMPLEX = b"\x81\xa1a\xc7\x13\x02\x92\xcb?\xf0" + bytes(6) + b"\xcb@" + bytes(7)


def test_msgpack_that_flax_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(NESTED)
    tensors = read_msgpack(path).tensors
    np.testing.assert_array_equal(tensors["a.b"], np.arange(3, dtype=np.float32))
    assert (tensors["c"].shape, float(tensors["c"])) == ((), 2.5)
    path.write_bytes(CHUNKED)
    np.testing.assert_array_equal(read_msgpack(path).tensors["a"], np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (COMPLEX, "complex numbers"),
        (b"\x81\xa1a\xd4\x07\x00", "extension type 7"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "reaches beyond its end"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "reaches beyond its end"),
        (b"\x81\xa1a" + b"\x91" * 100 + b"\x01", "nested too deep"),
        (NESTED[:-1], "reaches beyond its end"),
        (NESTED + b"\x00", "1 bytes follow the end"),
        (NESTED.replace(b"\x91\x03", b"\x91\x04"), r"shape \(4,\) with 12 bytes"),
        (NESTED.replace(b"float32", b"object0"), "dtype object0"),
        (NESTED.replace(b"\x91\x03", b"\x91\xff"), "invalid shape"),
        (CHUNKED.replace(b"\xa11\x03", b"\xa11\x04"), r"do not make an array of shape \(2, 4\)"),
        (CHUNKED.replace(b"\xa12", b"\xa13"), "without numbered parts"),
        (b"\x82\xa1a\x01\xa1a\x01", "occurs twice"),
        (b"\x81\xc4\x01a\x01", "no string"),
        (b"\x81\xa1\xff\x01", "utf-8"),
        (b"\x81\xa1a\xc1", "0xc1 begins no value"),
        (b"\x07", "must hold a map of arrays, got int"),
        (b"", "is empty"),
    ],
)
def test_msgpack_that_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        qgf_ref.load(path, **OPTIONS)
    assert str(caught.value).isprintable()


def test_msgpack_we_write_is_as_the_specification_says(tmp_path: Path) -> None:
    """Widest headers: map32, str32, ext32 of type 1 with [shape, dtype name, bin32]."""
    content = (
        b"\x93" + b"\xdd\0\0\0\1" + b"\xce\0\0\0\2" + b"\xdb\0\0\0\7float32" + b"\xc6\0\0\0\x08"
    )
    content += struct.pack("<2f", 1, -2)
    expected = (
        b"\xdf\0\0\0\1" + b"\xdb\0\0\0\1a" + b"\xc9" + struct.pack(">I", len(content)) + b"\x01"
    )
    assert msgpack_bytes({"a": np.array([1, -2], np.float32)}) == expected + content


def test_the_official_tree_as_msgpack(tmp_path: Path) -> None:
    """With optimizer states, steps and keys, as flax.serialization.to_bytes(agent) has them."""
    ck = small_checkpoint(dtype="float32")
    tree: Any = official_tree(ck)
    for network, moment in (("policy", 0.5), ("critic", 0.25)):
        params = tree["agent"][network]["params"]
        zeros = {"moments": {"Dense_0": {"kernel": np.full((2, 2), moment)}}, "params": params}
        tree["agent"][network]["opt_state"] = {"0": {"mu": zeros, "count": np.array(3)}}
    for network in ("policy", "critic", "target_critic", "value"):
        state = tree["agent"][network]
        state["step"] = np.array(7)
        state.pop("opt_state") if state["opt_state"] is None else None
    (tmp_path / "a.msgpack").write_bytes(msgpack_bytes(tree))
    (tmp_path / "flags.json").write_text(json.dumps({"agent": OPTIONS}))
    loaded, mapping = load_as_stored(tmp_path / "a.msgpack", {})
    same(loaded, ck)
    assert mapping is not None
    assert any("agent.rng" in name for name in mapping.ignored)
    assert all("opt_state" in n or n.endswith(("rng", "step")) for n in mapping.ignored)


# --- npz and safetensors -------------------------------------------------------------------------


def npz_bytes(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array: Any, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def test_npz_of_every_order_and_compression(tmp_path: Path) -> None:
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(3, dtype=">f4"),
              "c": np.zeros((0, 3)), "d": np.float16(1.5)}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        file = read_npz_tensors(tmp_path / "a.npz")
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.tensors[name], array)
        assert file.tensors["b"].dtype == np.dtype("float32")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npz_bytes(a=npy(np.array([Evil(print, 1)]), pickled=True)), "dtype object"),
        (npz_bytes(a=npy(np.zeros(2, "V3"))), "dtype [|]V3"),
        (npz_bytes(a=npy(np.zeros(2, complex))), "only numbers"),
        (npz_bytes(a=npy(np.zeros(3))[:-1]), r"shape \(3,\), which its 23 bytes"),
        (npz_bytes(a=npy(np.zeros(3)).replace(b"(3,)", b"(10**9,)"[:4])), "no readable array"),
        (npz_bytes(a=b"\x93NUMPY"), "no readable array"),
        (npz_bytes(a=bytes(100_000_000)), "unpacks to more than 67108864 bytes"),
        (b"PK\x03\x04", "no readable npz"),
        (b"", "is empty"),
    ],
)
def test_npz_that_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError, match=message):
        qgf_ref.load(tmp_path / "a.npz", **OPTIONS)


def test_options_by_flag_file_and_metadata(tmp_path: Path) -> None:
    """What is given wins over flags.json beside the file, and that over what is stored."""
    for form in ("torch", "flax", "npz"):
        path = tmp_path / form / FILES[form]
        path.parent.mkdir()
        export(small_checkpoint(steps=6), path, form)
        assert qgf_ref.load(path).options.denoise_steps == 6
        (path.parent / "flags.json").write_text(json.dumps({"agent": {"denoise_steps": 7}}))
        assert qgf_ref.load(path).options.denoise_steps == 7
        assert qgf_ref.load(path, denoise_steps=8).options.denoise_steps == 8


def test_missing_and_damaged_options(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    export(small_checkpoint(), tmp_path / "ours.safetensors", "qgf")
    tensors = load_file(tmp_path / "ours.safetensors")
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"does not say: activation.*--activation"):
        qgf_ref.load(path)
    same(qgf_ref.load(path, **OPTIONS), small_checkpoint())
    save_file(tensors, path, {"options": "{"})
    with pytest.raises(InputError, match="the stored options is not valid JSON"):
        qgf_ref.load(path)


ORBAX_FILES = ["_CHECKPOINT_METADATA", "manifest.ocdbt", "ocdbt.process_0"]


@pytest.mark.parametrize("name", ORBAX_FILES)
def test_a_damaged_orbax_directory(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorstore", reason="reads Orbax: the extra [orbax], which [peers] has")
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"no readable Orbax checkpoint|Orbax checkpoint without"):
        qgf_ref.load(tmp_path)


@pytest.mark.parametrize("name", ORBAX_FILES)
def test_orbax_without_tensorstore_is_refused_with_the_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("{}")
    monkeypatch.setattr(orbax_directory, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"qgf_ref\[orbax\].*x\.msgpack.*msgpack_serialize"):
        qgf_ref.load(tmp_path)


def test_a_pickle_with_other_names(tmp_path: Path) -> None:
    """The official reader knows one structure; --target-critic-from and rules read any."""
    ck = small_checkpoint()
    tree: Any = official_tree(ck)
    del tree["agent"]["target_critic"]
    path = write(tmp_path / "params_1.pkl", tree, OPTIONS)
    with pytest.raises(InputError, match="has no 'target_critic'"):
        qgf_ref.load(path)
    loaded = qgf_ref.load(path, target_critic_from="critic")
    for a, b in zip(loaded.target_critic.arrays(), ck.critic.arrays(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_target_critic_is_copied_only_on_request(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", damaged(lambda t: drop(t, "target")))
    loaded = qgf_ref.load(path, target_critic_from="critic", **OPTIONS)
    same(loaded, small_checkpoint().with_params(target_critic=small_checkpoint().critic))
    with pytest.raises(InputError, match="can be made of: critic; got value"):
        qgf_ref.load(path, target_critic_from="value", **OPTIONS)
    whole = put(tmp_path / "b.npz", damaged(lambda t: None))
    with pytest.raises(InputError, match="has a target critic of its own"):
        qgf_ref.load(whole, target_critic_from="critic", **OPTIONS)
