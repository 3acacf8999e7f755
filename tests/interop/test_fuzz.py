"""Mutated checkpoints of both kinds: loaded or refused in one line, and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, write
from tests.helpers.fuzz import mutated
from tests.helpers.quick import quickly


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
        with quickly():
            try:
                qgf_ref.load(path)
                outcomes["loaded"] += 1
            except InputError as error:
                assert str(error).isprintable()
                outcomes["refused"] += 1
    assert outcomes.total() == 3000
    assert outcomes["refused"] > 500
