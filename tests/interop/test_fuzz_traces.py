"""Mutated traces: compared or refused in one line, at a bounded cost, and nothing is executed."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.cli import main as cli
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.sampler.requirements import prepared
from qgf_ref.errors import InputError
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import read_trace
from qgf_ref.sampling import trace
from tests.conftest import small_checkpoint, states
from tests.helpers.checkpoints import Evil
from tests.helpers.fuzz import structure
from tests.helpers.quick import quickly
from tests.helpers.trace_files import archive, declaring, npy

CHECKPOINT = small_checkpoint(obs_dim=3, action_dim=2, hidden=(5, 4), steps=3)
METADATA = {"version": 1, "estimator": "qgf", "weight": 0.3, "denoise_steps": 3}
MOST_BYTES = 4_000_000
"""A trace here has 2 KB: what is left is the interpreter's own."""


def recorded() -> dict[str, Array]:
    obs, noise = states(CHECKPOINT, 4)
    flow = CHECKPOINT.astype("float32").guided_flow(embedding="float32")
    return trace(flow, obs, estimator="qgf", weight=0.3, noise=noise).arrays()


def trace_bytes(arrays: dict[str, Any], metadata: Any = METADATA) -> bytes:
    text = np.array(json.dumps(metadata))
    return archive({f"{n}.npy": npy(x) for n, x in {**arrays, "metadata": text}.items()})


KINDS = ("f2", "f8", ">f4", "g", "i8", "u1", "?", "c8", "U9", "S3", "O")
VALUES = (np.nan, np.inf, -np.inf, 1e300, 3e38, 1e-45, 0.0, 1e6)
WORDS: tuple[Any, ...] = (
    None, -1, 0, 1, 2, 4, 3.0, 1e308, 1e999, float("nan"), True, "ood", "none", "os:system", "qfg",
    "", "\ud800\n", "x" * 999, 10**40, 10**4000, [], {},
)  # fmt: skip


def nonsense(rng: np.random.Generator, arrays: dict[str, Array]) -> bytes:
    """A readable file of which something makes no sense: a value, a shape, a dtype, a word."""
    found: dict[str, Any] = dict(arrays)
    metadata: dict[str, Any] = dict(METADATA)
    for _ in range(rng.integers(1, 3)):
        name = str(rng.choice(list(found)))
        if rng.random() < 0.2:
            metadata[str(rng.choice([*METADATA, "best_of"]))] = WORDS[rng.integers(len(WORDS))]
        elif rng.random() < 0.1:
            del found[name]
        else:
            with np.errstate(all="ignore"):
                found[name] = spoilt(rng, found[name])
    return trace_bytes(found, metadata)


def spoilt(rng: np.random.Generator, x: Any) -> Any:
    axis = int(rng.integers(x.ndim)) if x.ndim else 0
    match rng.integers(6):
        case 0:
            return x.astype(str(rng.choice(KINDS)))
        case 1 if x.ndim:
            return np.take(x, range(rng.integers(x.shape[axis] + 1)), axis=axis)
        case 2 if x.ndim:
            return np.concatenate([x, x], axis=axis)
        case 3:
            return x.reshape(rng.permutation(x.shape))
        case 4:
            return x[..., None] if rng.random() < 0.5 else x.ravel()
        case _ if x.dtype.kind == "f" and x.size:
            wide = x.astype("f8")
            wide.flat[rng.integers(x.size)] = rng.choice(VALUES)
            return wide if rng.random() < 0.5 else wide.astype("f4")
    return x


def mutation(rng: np.random.Generator, whole: bytes, arrays: dict[str, Array]) -> bytes:
    """Bytes of a trace mutated, or a readable trace of nonsense."""
    return nonsense(rng, arrays) if rng.random() < 0.5 else structure(rng, whole, ".npz")


def fuzz(count: int, folder: Path) -> Counter[str]:
    path = folder / "t.npz"
    arrays, rng = recorded(), np.random.default_rng(0)
    whole, outcomes = trace_bytes(arrays), Counter[str]()
    for _ in range(count):
        path.write_bytes(mutation(rng, whole, arrays))
        with quickly():
            try:
                prepared(CHECKPOINT, read_trace(path))
                outcomes["prepared"] += 1
            except InputError as error:
                assert str(error).isprintable()
                assert len(str(error)) < 1500
                outcomes["refused"] += 1
    assert [p.name for p in folder.iterdir()] == [path.name], "nothing else is written"
    return outcomes


def test_two_hundred_mutations(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        outcomes = fuzz(200, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcomes.total() == 200
    assert outcomes["prepared"] > 20 and outcomes["refused"] > 100
    assert peak < MOST_BYTES


@pytest.mark.slow
def test_three_thousand_mutations(tmp_path: Path) -> None:
    outcomes = fuzz(3000, tmp_path)
    assert outcomes.total() == 3000
    assert outcomes["prepared"] > 200 and outcomes["refused"] > 1500


@pytest.fixture
def one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, not for every mutation."""
    monkeypatch.setattr(cli, "parser", cache(cli.parser))


def compared(count: int, seed: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> set[int]:
    """Exit codes of `qgf-ref compare` on so many mutations."""
    save_checkpoint(CHECKPOINT, folder / "m.safetensors")
    path = folder / "t.npz"
    arrays, rng, codes = recorded(), np.random.default_rng(seed), set()
    whole = trace_bytes(arrays)
    command = ["compare", "--checkpoint", str(folder / "m.safetensors"), "--trace", str(path)]
    for _ in range(count):
        path.write_bytes(mutation(rng, whole, arrays))
        code = main(command)
        codes.add(code)
        out, err = capsys.readouterr()
        if code == 2:
            assert out == "" and err.startswith("qgf-ref compare: ") and err.count("\n") == 1
        else:
            assert code in (0, 1) and err == ""
            assert out.startswith("AGREES" if code == 0 else "DISAGREES")
    assert sorted(p.name for p in folder.iterdir()) == ["m.safetensors", "t.npz"]
    return codes


def test_the_command_line_answers_every_mutation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_parser: None
) -> None:
    assert compared(30, 1, tmp_path, capsys) == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_the_command_line_answers_five_hundred_mutations(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_parser: None
) -> None:
    assert compared(500, seed, tmp_path, capsys) == {0, 1, 2}


def _bomb() -> bytes:
    return archive({"obs.npy": declaring((25 << 20,), bytes(100 << 20))})


def _bomb_that_lies() -> bytes:
    """The same, the archive saying that it unpacks to 1 kB."""
    honest, sizes = _bomb(), struct.pack("<I", len(declaring((25 << 20,))) + (100 << 20))
    assert honest.count(sizes) == 2
    return honest.replace(sizes, struct.pack("<I", 1000))


def _nested() -> bytes:
    return archive({"obs.npy": _bomb()})


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (_bomb, "refused: it unpacks to more than 67108864 bytes"),
    "bomb that lies": (_bomb_that_lies, "not a readable npz"),
    "bomb in an archive": (_nested, "not a readable npz"),
    "header": (lambda: archive({"obs.npy": declaring((1 << 36,), b"x")}), "do not fill"),
    "header of text": (
        lambda: archive({"metadata.npy": declaring((), b"", f"<U{1 << 28}")}), "do not fill",
    ),
    "array": (lambda: declaring((1 << 36,)), "single .npy array"),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_what_would_eat_memory_is_refused_unread(what: str, tmp_path: Path) -> None:
    make, message = BOMBS[what]
    path = tmp_path / "t.npz"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_trace(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_nothing_in_a_trace_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither pickled objects nor the code that a trace's metadata names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('pwned', 'w')\ndef guide(flow, step): ...\n")
    save_checkpoint(CHECKPOINT, tmp_path / "m.safetensors")
    evil = np.array([Evil(os.system, "touch pwned")], object)
    arrays = recorded()
    for data in (
        trace_bytes({**arrays, "v": evil}),
        archive({**{f"{n}.npy": npy(x) for n, x in arrays.items()}, "metadata.npy": npy(evil)}),
        trace_bytes(arrays, {**METADATA, "estimator": "evil:guide"}),
    ):
        (tmp_path / "t.npz").write_bytes(data)
        assert main(["compare", "--checkpoint", "m.safetensors", "--trace", "t.npz"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "pwned").exists()
    assert "names code, 'evil:guide', as its estimator: give --estimator" in _refusal(tmp_path)


def _refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        prepared(CHECKPOINT, read_trace(folder / "t.npz"))
    return str(error.value)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    path.write_bytes(trace_bytes(recorded()))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as packed:
        first = packed.infolist()[0].header_offset
    central = data.index(b"PK\x01\x02")
    data[first + 6] |= 1
    data[central + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a readable npz: .*encrypted"):
        read_trace(path)
