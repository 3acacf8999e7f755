"""PyTorch's files, read without PyTorch: the standard library's pickler writes the streams."""

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
from qgf_ref.interop.export import export
from qgf_ref.interop.flax_msgpack import read_msgpack
from qgf_ref.interop.safetensors_file import read_safetensors
from qgf_ref.interop.torch_file import LEGACY, read_torch
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import Evil


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
