"""Fixtures. Cases that need ../shared are skipped, saying so, in a bare clone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

# pytest-xdist runs one process for each core: BLAS threads on top of that only get in the way
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import qgf_ref
from qgf_ref import plotting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.data import tasks
from qgf_ref.errors import OGBENCH_PYTHONS
from tests.helpers.small import conditional_params, small_auxiliary, small_checkpoint, states

if find_spec("ogbench") is None:
    # the one door through which OGBench comes
    tasks._gymnasium = lambda: pytest.skip(f"needs OGBench, which exists for {OGBENCH_PYTHONS}")

__all__ = ["conditional_params", "small_auxiliary", "small_checkpoint", "states"]
"""Of `tests.helpers.small`, which many tests take from here."""
SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN_CASES = ("tiny", "chunked", "relu_mean")


@dataclass(frozen=True)
class Golden:
    """One golden case: its directory, checkpoint and the official float32 file."""

    name: str
    path: Path
    official: dict[str, Array]

    def load(self, dtype: str = "float64") -> Checkpoint:
        return qgf_ref.load(self.path / "params_0.pkl", dtype=dtype)

    def npz(self, name: str) -> dict[str, Array]:
        with np.load(self.path / f"{name}.npz") as file:
            return dict(file)


SAVED = plotting._saved


@pytest.fixture(autouse=True, scope="session")
def _no_pictures() -> Iterator[None]:
    """Rendering takes most of the time of many a small run, and few tests look at it: figures are
    made, and their files say which kind they would be. Loss curves, drawn at every save, are not
    even made. See `draws`.
    """
    from qgf_ref.training import run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "loss_curves", lambda *arguments: None)
        patched.setattr(plotting, "_saved", lambda figure, **options: options["format"].encode())
        yield


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a test that needs pictures."""
    from qgf_ref.training import curves, run

    monkeypatch.setattr(run, "loss_curves", curves.loss_curves)
    monkeypatch.setattr(plotting, "_saved", SAVED)


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of OGBench's tasks, in this process, end after 100 steps."""
    monkeypatch.setattr(tasks, "make_env", partial(tasks.make_env, max_episode_steps=100))


def golden_case(name: str) -> Golden:
    path = SHARED / "golden" / name
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    with np.load(path / "official_float32.npz") as file:
        return Golden(name, path, dict(file))


@pytest.fixture(params=GOLDEN_CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_case(request.param)


@pytest.fixture(params=(*GOLDEN_CASES, "pinned_jax"))
def golden_official(request: pytest.FixtureRequest) -> Golden:
    return golden_case(request.param)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return small_checkpoint()
