"""Files of other frameworks: readers and writers, with bytes that others made as the oracle."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.arrays import Array
from qgf_ref.interop import orbax_directory
from qgf_ref.interop.export import export
from qgf_ref.interop.flax_msgpack import msgpack_bytes, read_msgpack
from qgf_ref.interop.load import load_as_stored
from qgf_ref.interop.npz_file import read_npz_tensors
from qgf_ref.interop.safetensors_file import read_safetensors
from qgf_ref.interop.torch_file import LEGACY, read_torch
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, Evil, official_tree, same, write

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


# --- PyTorch: the standard library's pickler writes the streams --------------------------------


class _FakeTensor:
    def __init__(self, array: Array, storage: Any, parameter: bool = False) -> None:
        self.array, self.storage, self.parameter = array, storage, parameter


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules `torch` and `torch._utils` whose names pickle as PyTorch's do."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("Float", "Double", "Half", "BFloat16", "Long"):
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for function in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        made = types.FunctionType((lambda *a: None).__code__, {}, function)
        made.__module__, made.__qualname__ = "torch._utils", function
        setattr(utils, function, made)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


KINDS = {"float32": "Float", "float64": "Double", "float16": "Half", "uint16": "BFloat16",
         "int64": "Long"}  # fmt: skip


def torch_zip(tree: Any, torch: Any, **changes: bytes | None) -> bytes:
    """The bytes of torch.save(tree), by the standard library; arrays stand for tensors."""
    storages: list[Array] = []

    class Storage:
        def __init__(self, array: Array) -> None:
            self.array = array

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, Storage):
                return None
            storages.append(obj.array)
            kind = getattr(torch, KINDS[obj.array.dtype.name] + "Storage")
            return ("storage", kind, str(len(storages) - 1), "cpu", obj.array.size)

        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, np.ndarray):
                return NotImplemented
            base: Any = obj
            while getattr(base, "base", None) is not None:
                base = base.base
            offset = (obj.ctypes.data - base.ctypes.data) // obj.itemsize
            strides = tuple(s // obj.itemsize for s in obj.strides)
            flat = base.reshape(-1, order="A")
            args: Any = (Storage(flat), offset, obj.shape, strides, False, OrderedDict())
            return torch_utils()._rebuild_tensor_v2, args

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(tree)
    members: dict[str, bytes | None] = {
        "data.pkl": stream.getvalue(),
        "byteorder": b"little",
        **{f"data/{i}": a.tobytes() for i, a in enumerate(storages)},
        "version": b"3\n",
        **changes,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def torch_utils() -> Any:
    return sys.modules["torch._utils"]


def state_dict() -> OrderedDict[str, Array]:
    rng = np.random.default_rng(0)
    state: OrderedDict[str, Any] = OrderedDict()
    state["matrix"] = rng.standard_normal((3, 4)).astype(np.float32)
    state["transposed"] = rng.standard_normal((3, 4)).T
    state["slice"] = rng.standard_normal((6, 4))[2:5, 1::2]
    state["half"] = np.array([[1.5, -2.25], [6e-8, 65504]], np.float16)
    state["long"] = np.arange(3)
    state["scalar"] = np.array(2.5)
    return state


def test_torch_streams_of_another_pickler(fake_torch: Any, tmp_path: Path) -> None:
    """Memo, strides, offsets, nesting, integer keys, attributes of a state dict."""
    state = state_dict()
    with_versions = OrderedDict(state)
    with_versions._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    tree = {"net": with_versions, "optimizer": {"state": {0: {"exp_avg": state["matrix"]}}},
            "epoch": 3, "lr": 1e-3, "name": "x", "more": [state["matrix"], None, True]}  # fmt: skip
    (tmp_path / "a.pt").write_bytes(torch_zip(tree, fake_torch))
    file = read_torch(tmp_path / "a.pt")
    for name, array in state.items():
        np.testing.assert_array_equal(file.tensors[f"net.{name}"], array)
    np.testing.assert_array_equal(file.tensors["optimizer.state.0.exp_avg"], state["matrix"])
    np.testing.assert_array_equal(file.tensors["more.0"], state["matrix"])
    assert file.tensors["net.half"].dtype == np.float32
    assert file.notes == ["1 float16 tensors became float32, exactly"]


def test_bfloat16_becomes_float32_exactly(fake_torch: Any, tmp_path: Path) -> None:
    # 1.0, -2.5, the smallest subnormal, the largest finite value, as bfloat16 has them
    bits = np.array([0x3F80, 0xC020, 0x0001, 0x7F7F], np.uint16)
    values = [1.0, -2.5, 2.0**-133, (2 - 2.0**-7) * 2.0**127]
    (tmp_path / "a.pt").write_bytes(torch_zip({"w": bits}, fake_torch))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bits.tobytes()
    )
    inner = b"\x93\x91\x04\xa8bfloat16\xc4\x08" + bits.tobytes()
    (tmp_path / "a.msgpack").write_bytes(b"\x81\xa1w\xc7" + bytes([len(inner)]) + b"\x01" + inner)
    readers = {"pt": read_torch, "safetensors": read_safetensors, "msgpack": read_msgpack}
    for suffix, reader in readers.items():
        file = reader(tmp_path / f"a.{suffix}")
        assert file.tensors["w"].dtype == np.float32
        np.testing.assert_array_equal(file.tensors["w"], values)
        assert file.notes == ["1 bfloat16 tensors became float32, exactly"]


def test_big_endian_torch_files(fake_torch: Any, tmp_path: Path) -> None:
    data = torch_zip({"w": np.arange(3.0)}, fake_torch)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        stream = archive.read("archive/data.pkl")
    swapped = {
        "data.pkl": stream,
        "byteorder": b"big",
        "data/0": np.arange(3, dtype=">f8").tobytes(),
    }
    (tmp_path / "a.pt").write_bytes(torch_zip({}, fake_torch, **swapped))
    np.testing.assert_array_equal(read_torch(tmp_path / "a.pt").tensors["w"], np.arange(3.0))


def test_what_we_write_is_read_by_the_standard_library(tmp_path: Path) -> None:
    """An unpickler that knows three names suffices, and contents lie at multiples of 64 bytes."""
    ck = small_checkpoint(dtype="float32")
    export(ck, tmp_path / "a.pt", "torch")

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return lambda storage, offset, shape, strides, *rest: (
                    np.lib.stride_tricks.as_strided(
                        storage[offset:], shape, [4 * s for s in strides]
                    )
                )
            if (module, name) == ("collections", "OrderedDict"):
                return OrderedDict
            assert (module, name) == ("torch", "FloatStorage")
            return name

        def persistent_load(self, pid: Any) -> Array:
            kind, storage, key, device, count = pid
            assert (kind, storage, device) == ("storage", "FloatStorage", "cpu")
            values = np.frombuffer(archive.read(f"qgf_ref/data/{key}"), "<f4")
            assert len(values) == count
            return values

    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.read("qgf_ref/version") == b"3\n"
        raw = (tmp_path / "a.pt").read_bytes()
        for info in archive.infolist():
            name, extra = struct.unpack("<HH", raw[info.header_offset + 26 :][:4])
            assert (info.header_offset + 30 + name + extra) % 64 == 0
        state = Unpickler(io.BytesIO(archive.read("qgf_ref/data.pkl"))).load()
    assert len(state) == 14 + 14 - 2 + 4 * 14
    np.testing.assert_array_equal(state["policy.layers.0.weight"], ck.policy.layers[0].kernel.T)
    np.testing.assert_array_equal(state["critic.1.norms.2.bias"], ck.critic.layers[2].offset[1])  # type: ignore[index]


BOMBS = {
    "os.system": (Evil(print, "pwned"), r"builtins\.print|__builtin__\.print"),
    "eval": (Evil(eval, "open('pwned', 'w')"), r"_*builtin\w*\.eval"),
    "getattr": (Evil(getattr, {}, "keys"), r"_*builtin\w*\.getattr"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_bomb_in_a_pt_runs_nothing(
    name: str, fake_torch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    bomb, named = BOMBS[name]
    (tmp_path / "a.pt").write_bytes(torch_zip({**state_dict(), "bomb": bomb}, fake_torch))
    with pytest.raises(InputError, match=rf"a\.pt is refused: it contains the name {named}"):
        qgf_ref.load(tmp_path / "a.pt")
    assert capsys.readouterr().out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_torch_files_that_are_not_read(fake_torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    cases: dict[str, tuple[bytes, str]] = {
        "legacy": (LEGACY + b"\x80\x02M\xe9\x03.", r"before 1.6.*save it again.*torch\.save"),
        "script": (torch_zip({}, fake_torch, **{"constants.pkl": b""}), "TorchScript"),
        "no storage": (
            torch_zip({"w": np.zeros(3)}, fake_torch, **{"data/0": None}),
            "storage of 3 × 8 bytes for which it has nothing",
        ),
        "short storage": (
            torch_zip({"w": np.zeros(3)}, fake_torch, **{"data/0": bytes(8)}),
            "for which it has 8 bytes",
        ),
        "byte order": (torch_zip({}, fake_torch, byteorder=b"middle"), "byte order b'middle'"),
        "another zip": (torch_zip({}, fake_torch, **{"data.pkl": None}), "without a data.pkl"),
        "no zip": (b"PK\x03\x04 and so on", "truncated or corrupt"),
    }
    for data, message in cases.values():
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            qgf_ref.load(path)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    path.write_bytes(packed.getvalue())
    with pytest.raises(InputError, match="compressed members"):
        qgf_ref.load(path)


def test_strides_cannot_multiply_a_tensor(fake_torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    small = np.zeros(4, np.float32)
    wide = np.lib.stride_tricks.as_strided(small, (1 << 40,), (0,))
    path.write_bytes(torch_zip({"w": wide}, fake_torch))
    with pytest.raises(InputError, match="more bytes of arrays than the file has"):
        qgf_ref.load(path)
    beyond = np.lib.stride_tricks.as_strided(small, (2, 4), (4, 4))
    path.write_bytes(torch_zip({"w": beyond}, fake_torch))
    with pytest.raises(InputError, match="does not fit its storage"):
        qgf_ref.load(path)


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
