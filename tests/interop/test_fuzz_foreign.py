"""Mutated files of other frameworks: loaded or refused in one line, and nothing else happens."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import qgf_ref
from qgf_ref import InputError
from qgf_ref.cli.main import main
from qgf_ref.interop.export import export, names_in
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS
from tests.helpers.fuzz import structure
from tests.helpers.quick import quickly
from tests.helpers.some import some

KINDS = {".pt": "torch", ".msgpack": "flax", ".safetensors": "foreign", ".npz": "npz"}
MOST_BYTES = 100_000_000
"""The limit of a compressed archive (64 MiB) and its copies; files here are of 60 KB or less."""


def whole_file(suffix: str, path: Path) -> bytes:
    """A readable file; of safetensors, one that is not of our format."""
    ck = small_checkpoint(dtype="float32", hidden=(6, 5))
    if KINDS[suffix] == "foreign":
        tensors = {w.name: np.ascontiguousarray(w.array) for w in names_in(ck, "torch")}
        return save(tensors, {"about": "a foreign file"})
    export(ck, path, KINDS[suffix])
    return path.read_bytes()


def fuzz(suffix: str, count: int, tmp_path: Path) -> Counter[str]:
    path = tmp_path / f"a{suffix}"
    whole, rng = whole_file(suffix, path), np.random.default_rng(0)
    outcomes = Counter[str]()
    for _ in range(count):
        path.write_bytes(structure(rng, whole, suffix))
        with quickly():
            try:
                qgf_ref.load(path, **OPTIONS)
                outcomes["loaded"] += 1
            except InputError as error:
                assert str(error).isprintable()
                assert len(str(error)) < 3000
                outcomes["refused"] += 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], "nothing else is written"
    return outcomes


@pytest.mark.parametrize("count", some([50, 200], 1))
@pytest.mark.parametrize("suffix", KINDS)
def test_mutations_within_memory(suffix: str, count: int, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        outcomes = fuzz(suffix, count, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcomes.total() == count
    assert outcomes["refused"] > count // 2
    assert peak < MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS)
def test_three_thousand_mutations(suffix: str, tmp_path: Path) -> None:
    outcomes = fuzz(suffix, 3000, tmp_path)
    assert outcomes.total() == 3000
    assert outcomes["refused"] > 500


@pytest.mark.parametrize("suffix", KINDS)
def test_the_command_line_exits_with_2(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    whole = whole_file(suffix, path)
    for data in (whole[: len(whole) // 2], b"", whole[:50] + bytes(40) + whole[90:]):
        path.write_bytes(data)
        assert main(["audit", "--checkpoint", str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("qgf-ref audit: ")
        assert captured.err.count("\n") == 1
