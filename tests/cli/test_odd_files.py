"""Odd files given to commands: exit code 2, one line with what to do, and nothing is lost."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from qgf_ref.cli.main import main
from qgf_ref.files import npz_bytes
from qgf_ref.interop.export import names_in
from qgf_ref.interop.flax_msgpack import msgpack_bytes
from qgf_ref.interop.torch_file import LEGACY, torch_bytes
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import Evil, official_tree

CK = small_checkpoint(dtype="float32", hidden=(6, 5))
ARRAYS = {w.name: np.ascontiguousarray(w.array) for w in names_in(CK, "torch")}
RNG = np.random.default_rng(15)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5' * 64}\nsize 91\n".encode()
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(data))
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**members: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    return buffer.getvalue()


NPZ, SAFE, TORCH = npz_bytes(ARRAYS), save(ARRAYS), torch_bytes(ARRAYS, "")
FLAX = msgpack_bytes({"a": ARRAYS["value.layers.0.weight"]})
PICKLE = pickle.dumps(official_tree(CK), protocol=4)
LFS, HTML, AGAIN, UNZIP = "git lfs pull", "web page.*download link", "get it again", "decompress it"

CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "pointer.safetensors": (POINTER, LFS),
    "pointer.pt": (POINTER, LFS),
    "policy.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.9.0", "ONNX, a program"),
    "events.out.tfevents.1": (b"\x18" + 11 * b"\0" + b"\x1a\rbrain.Event:2\x9c", "TensorBoard"),
    "libpolicy.so": (b"\x7fELF\x02\x01\x01" + 9 * b"\0", "a program"),
    "agent.weights": (bytes(range(128, 160)), "80 81 82 .* are of no format that is read: .saf"),
    "pointer.ckpt": (POINTER, LFS),
    "params_7.pkl": (POINTER, LFS),
    "pointer.msgpack": (POINTER, LFS),
    "pointer.npz": (POINTER, LFS),
    "pointer.bin": (POINTER, LFS),
    "page.safetensors": (PAGE, HTML),
    "page.pth": (PAGE.upper(), HTML),
    "page.npz": (b"<html>403</html>", HTML),
    "denied.msgpack": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", HTML),
    "empty.safetensors": (b"", AGAIN),
    "empty.pkl": (b"", AGAIN),
    "empty": (b"", AGAIN),
    "zeros.pt": (bytes(4096), AGAIN),
    "zeros.safetensors": (bytes(9), AGAIN),
    "agent.npz.gz": (gzip.compress(NPZ), UNZIP),
    "agent.pt.bz2": (bz2.compress(TORCH), UNZIP),
    "agent.safetensors.xz": (lzma.compress(SAFE), UNZIP),
    "agent.msgpack.zst": (b"\x28\xb5\x2f\xfd" + FLAX, UNZIP),
    "agent.pkl": (gzip.compress(PICKLE), UNZIP),
    "agent.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "unpack it"),
    "agent.rar": (b"Rar!\x1a\x07\x01\x00" + bytes(50), "unpack it"),
    "agent.tar": (tarred("agent.pt", TORCH), "unpack it"),
    "sb3.zip": (zipped({"data": b"{}", "policy.pth": TORCH}), "policy.pth: unpack it"),
    "agent.keras": (zipped({"config.json": b"{}", "model.weights.h5": b""}), "unpack it"),
    "program.pt": (zipped({"a/data.pkl": b"", "a/constants.pkl": b""}), "jit.load.*state_dict"),
    "agent.pt2": (zipped({"a/archive_format": b"pt2", "a/data.pkl": b""}), "export.load"),
    "old.pt": (LEGACY + b"\x80\x02M\xe9\x03.", r"torch\.save\(torch\.load"),
    "agent.npy": (npy(ARRAYS["value.layers.0.bias"]), r"numpy\.savez"),
    "params.npy": (npy(np.array({"a": 1}, object)), r"numpy\.savez"),
    "objects.npz": (npz(params=np.array({"a": 1}, object)), r"flatten_dict"),
    "agent.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), r"numpy\.savez"),
    "agent.gguf": (b"GGUF\3\0\0\0" + bytes(100), "no networks of this kind"),
    "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3", AGAIN),
    "plot.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), AGAIN),
    "config.json": (b'{"agent": {"discount": 0.99}}', "JSON.*give the file of the arrays"),
    "model.safetensors.index.json": (b'{"weight_map": {}}', "index of no shards.*get it again"),
    "pytorch_model.bin.index.json": (b'{"weight_map": {"a": "b.bin"}}', "get all of them"),
    "model-00001-of-00003.safetensors": (SAFE, "part 1 of 3: give their index"),
    "train.py": (b"import torch\n", "plain text.*give the file of the arrays"),
    "metrics.csv": ("Schritt;Verlust\n1;0,5 — fällt\n".encode(), "plain text"),
    "cut.safetensors": (SAFE[:-10], "cut short, .* an interrupted download"),
    "cut_header.safetensors": (SAFE[:40], "cut short"),
    "cut.pt": (TORCH[:-200], "no readable PyTorch file.*truncated"),
    "cut.npz": (NPZ[: len(NPZ) // 2], "no readable npz.*truncated"),
    "cut.msgpack": (FLAX[:-3], "truncated or corrupt"),
    "cut.pkl": (PICKLE[:-200], "truncated or corrupt"),
    "noise.safetensors": (RNG.bytes(300), "safetensors|msgpack|npz|PyTorch"),
    "noise.pt": (RNG.bytes(300), "PyTorch|pickle|msgpack"),
    "noise": (b"\xff" + RNG.bytes(300), "are of no format that is read: .safetensors"),
    "bomb.pkl": (pickle.dumps({"a": Evil(print, "pwned")}), "refused.*numpy.savez"),
    "module.pkl": (pickle.dumps(small_checkpoint), "refused"),
    "a_list.pkl": (pickle.dumps([1, 2]), "no arrays by name"),
    "empty_tree.msgpack": (msgpack_bytes({}), "names say|MessagePack|readable|not a qgf_ref"),
    "nobody.npz": (npz(weight=np.ones((3, 2))), r"rule file \(--rules.*\"rename\""),
    "complex.npz": (npz(a=np.ones(2, complex)), "write float32"),
    "twice.safetensors": (struct.pack("<Q", 2) + b"{}", "rule file"),
}  # fmt: skip
TRACES: dict[str, tuple[bytes, str]] = {
    "pointer.npz": (POINTER, LFS),
    "page.npz": (PAGE, HTML),
    "theirs.npz.gz": (gzip.compress(NPZ), UNZIP),
    "theirs.pt": (TORCH, r"a PyTorch file; write numpy\.savez"),
    "obs.npy": (npy(np.ones((2, 5))), r"numpy\.savez"),
    "dict.npz": (npz(metadata={"weight": 1}), r"metadata holds Python objects.*json\.dumps"),
    "lists.npz": (npz(obs=np.array([[1.0], [1.0, 2.0]], object)), r"obs holds.*numpy\.stack"),
    "other_names.npz": (npz(observations=np.ones((2, 5))), "lacks obs.*it holds observations"),
}

TASK = "cube-single-play-singletask-task1-v0"
SETTINGS: dict[str, tuple[bytes, str]] = {
    "pointer": (POINTER, LFS),
    "page": (PAGE, HTML),
    "zeros": (bytes(99), AGAIN),
    "compressed": (gzip.compress(b"{}"), UNZIP),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture: get it again"),
    "noise": (b"\xff\xca" + RNG.bytes(300), "no text|not valid JSON|is no bench.json|cannot read"),
    "latin": ('{"größe": 1}'.encode("latin-1"), "no text|not valid JSON|cannot read"),
    "cut": (b'{"updates": ', "no TOML|not valid JSON|is no bench.json"),
    "list": (b"[1, 2]", "sweep needs|no TOML|not a JSON object|is no bench.json|unknown key"),
    "deep": (9999 * b"[", "no TOML|not valid JSON|is no bench.json|nested"),
    "of another": (b'{"nope": 1}', "no TOML|nope|is no bench.json"),
}
"""What a person writes: a sweep's spec, a run's settings, rules, an earlier result."""
OBSERVATIONS: dict[str, tuple[bytes, str]] = {
    "pointer.npz": (POINTER, LFS),
    "empty.npz": (b"", AGAIN),
    "obs.npy": (npy(np.ones((3, 28))), r"numpy\.savez"),
    "nothing.npz": (npz(), "lacks obs; it holds nothing"),
    "one.npz": (npz(obs=np.float64(1)), r"obs must have shape \(rows, 28\), got \(\)"),
    "text.npz": (npz(obs=np.array(["a"])), "array of real numbers"),
    "wide.npz": (npz(obs=np.ones((3, 7))), r"\(rows, 28\), got \(3, 7\)"),
    "deep.npz": (npz(obs=np.ones((3, 28, 1))), r"\(rows, 28\), got \(3, 28, 1\)"),
    "nan.npz": (npz(obs=np.full((3, 28), np.nan)), "must be finite: 84 of 84"),
    "complex.npz": (npz(obs=np.ones((3, 28), complex)), "array of real numbers"),
    "objects.npz": (npz(obs=np.array([None])), r"numpy\.stack"),
}
GROUPS: dict[str, tuple[dict[str, tuple[bytes, str]], str]] = {
    "convert": (CHECKPOINTS, "convert {} out.pt"),
    "compare": (TRACES, "compare --trace {} --out report"),
    "sweep": (SETTINGS, "sweep {} --out report --serial"),
    "config": (SETTINGS, f"train {TASK} --config {{}} --out report"),
    "rules": (SETTINGS, "convert mine.safetensors out.pt --rules {}"),
    "against": (SETTINGS, "bench --smoke --against {} --out report"),
    "observations": (OBSERVATIONS, "explain --obs {}"),
}
CASES = [(group, name) for group, (files, _) in GROUPS.items() for name in files]


@pytest.mark.parametrize(("group", "name"), CASES)
def test_odd_files(
    group: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    files, words = GROUPS[group]
    data, message = files[name]
    monkeypatch.chdir(tmp_path)
    name = name.replace(" ", "_")
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out.pt").write_bytes(b"kept")
    (tmp_path / "mine.safetensors").write_bytes(SAFE)
    command = words.split()[0]
    assert main(words.format(name).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"qgf-ref {command}: ")
    assert captured.err.count("\n") == 1 and captured.err.rstrip().isprintable()
    assert len(captured.err) < 900
    assert re.search(message, captured.err), captured.err
    assert (tmp_path / name).read_bytes() == data
    assert (tmp_path / "out.pt").read_bytes() == b"kept"
    own = (name, "out.pt", "mine.safetensors")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in own]


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100


def test_json_in_messages_can_be_pasted() -> None:
    """The globs of a remedy are JSON, whatever the names."""
    from qgf_ref.interop.mapping.modules import passing_over

    assert json.loads(passing_over(['a"b.c', "é/d"], ["e"])) == {"ignore": ['a"b.*', "é/*"]}
