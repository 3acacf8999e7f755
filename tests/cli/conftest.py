"""A place to run commands in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint, states


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a checkpoint, an input and observations; the current one."""
    ck = small_checkpoint()
    save_checkpoint(ck, tmp_path / "model.safetensors")
    obs, noise = states(ck, 5)
    np.savez(tmp_path / "in.npz", obs=obs, noise=noise)
    monkeypatch.chdir(tmp_path)
    return tmp_path
