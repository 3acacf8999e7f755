"""The pickle reader: streams of every kind are read, hostile ones are refused, nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.unpickle import read_pickle
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, Evil, official_tree, write
from tests.helpers.quick import quickly


def test_numpy_1_and_2_module_names_and_endianness(tmp_path: Path) -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    tree = {
        "a": matrix,
        "b": np.float32(2.5),
        "c": np.arange(3, dtype=">f4"),
        "d": np.asfortranarray(matrix),
        "e": OrderedDict(x=1),
    }
    for protocol in (2, 4, 5):
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
        (np.array([1 + 2j]), "dtype"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype"),
    ],
)
def test_arrays_that_are_not_numbers_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path / "x.pkl", {"a": value})
    with pytest.raises(InputError, match=f"is refused.*{message}"):
        read_pickle(path)


def test_text_and_times_are_no_weights(tmp_path: Path) -> None:
    values = {"a": np.array(["a"]), "b": np.str_("x"), "c": np.str_(""), "d": np.datetime64(1, "s")}
    path = write(tmp_path / "x.pkl", {**values, "e": np.float32(1)})
    assert read_pickle(path) == {**dict.fromkeys(values), "e": 1}


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
        with pytest.raises(InputError, match="truncated or corrupt" if size else "is empty"):
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


def stream(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(s: str) -> bytes:
    data = s.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _nested(levels: int = 50) -> bytes:
    """A list that holds, twice, a list that holds, twice, … : 2^levels leaves in a few bytes."""
    inner = b"]\x94"
    for level in range(levels):
        inner = b"](" + inner + b"h" + bytes([level]) + b"e\x94"
    return inner


HOSTILE = {
    "a value shared 2^50 times": (stream(b"}", text("a"), _nested(), b"s"), None),
    "a list as a key": (stream(b"}", b"]", b"K\x01s"), "key of type list"),
    "an array in a key": (stream(b"}", b"K\x01]\x86", b"K\x01s"), "key of type tuple"),
    "an int as a key": (stream(b"}K\x01K\x01s"), None),
    "a memo index of 2^32 − 1": (stream(b"}r\xff\xff\xff\xff"), None),
    "100 nested lists": (stream(b"]" * 100, b"a" * 99), "nested more than 64"),
    "a list in itself": (stream(b"]\x94h\x00a"), None),
    "a persistent id": (stream(b"K\x01Q"), "BINPERSID"),
    "an extension": (stream(b"\x82\x01"), "EXT1"),
    "a class instance": (stream(b"(cos\nsystem\no"), "os.system"),
    "a call of ndarray": (stream(b"cnumpy\nndarray\n", b"K\x05\x85R"), "a call of numpy.ndarray"),
    "a call of a dict": (stream(b"}", b")R"), "a call of dict"),
    "too many arguments": (stream(b"ccollections\nOrderedDict\n", b"}}\x86R"), "does not make"),
    "a bare dtype": (stream(b"cnumpy\ndtype\n", text("f4"), b"\x85R"), "bare type"),
    "a bytes object longer than the file": (stream(b"\x8e", struct.pack("<Q", 1 << 40)), "corrupt"),
    "an odd escape in a string": (stream(b"S'\\q'\n"), "instruction STRING"),
    "no end": (b"\x80\x04}", "corrupt"),
    "an empty stack": (stream(), "the stream ends with"),
    "set on nothing": (stream(text("a"), text("b"), b"s"), "corrupt"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams_end_quickly_and_clearly(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with quickly():
        if message is None:
            read_pickle(path)
        else:
            with pytest.raises(InputError, match=message):
                read_pickle(path)


def test_bytes_cannot_be_multiplied(tmp_path: Path) -> None:
    """Many big-endian arrays on one shared bytes object: each would be a copy."""
    blob = os.urandom(40_000)
    one = b"h\x00(h\x01h\x02" + b"J" + struct.pack("<i", 10_000) + b"\x85X\x01\x00\x00\x00CtR"
    shared = b"B" + struct.pack("<I", len(blob)) + blob + b"\x94"
    dtype = b"cnumpy\ndtype\n" + text("f4") + b"\x85R\x94"
    name = b"cnumpy._core.numeric\n_frombuffer\n\x94"
    data = stream(name, shared, dtype, b"]", (one + b"a") * 20)
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match="more bytes of arrays than the file has"):
        read_pickle(path)


def test_keys_are_shown_safely(tmp_path: Path) -> None:
    tree = official_tree(small_checkpoint())
    tree["agent"] = {"a\nTraceback\x1b[31m": 1, "k" * 100_000: 2, **{f"n{i}": 0 for i in range(50)}}
    with pytest.raises(InputError) as caught:
        qgf_ref.load(write(tmp_path / "params_1.pkl", tree, OPTIONS))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
