"""Mutated checkpoints of both kinds: loaded or refused in one line, and nothing else."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint
from tests.interop.test_checkpoints import OPTIONS, official_tree, write

START = 4000
"""Bytes at the front that are hit more often: the structure stands there."""


def mutated(rng: np.random.Generator, whole: bytes) -> bytes:
    """Truncated, or with bytes changed anywhere or near the front, or a stretch replaced."""
    data = bytearray(whole)
    front = min(len(data), START)
    match rng.integers(4):
        case 0:
            return bytes(data[: rng.integers(len(data))])
        case 1 | 2 as where:
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(front if where == 1 else len(data))] = rng.integers(256)
        case _:
            at, length = rng.integers(front), rng.integers(1, 40)
            data[at : at + length] = rng.bytes(int(rng.integers(40)))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["params_1.pkl", "m.safetensors"])
def test_three_thousand_mutations(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind.endswith("pkl"):
        write(path, official_tree(small_checkpoint()), OPTIONS)
    else:
        save_checkpoint(small_checkpoint(), path)
    whole, rng, outcomes = path.read_bytes(), np.random.default_rng(0), Counter[str]()
    for _ in range(3000):
        path.write_bytes(mutated(rng, whole))
        started = time.perf_counter()
        try:
            qgf_ref.load(path)
            outcomes["loaded"] += 1
        except InputError as error:
            assert str(error).isprintable()
            outcomes["refused"] += 1
        assert time.perf_counter() - started < 5
    assert outcomes.total() == 3000
    assert outcomes["refused"] > 500
