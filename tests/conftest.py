"""Fixtures. Cases that need ../shared are skipped, saying so, in a bare clone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# pytest-xdist runs one process for each core: BLAS threads on top of that only get in the way
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import qgf_ref
from qgf_ref import plotting
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.arrays import Array
from qgf_ref.data import tasks
from qgf_ref.errors import OGBENCH_PYTHONS
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.nets.initialisers import init_table, init_value, init_velocity
from qgf_ref.nets.joint import LABEL_COLUMNS
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.time_embedding import DIM

if find_spec("ogbench") is None:
    # the one door through which OGBench comes
    tasks._gymnasium = lambda: pytest.skip(f"needs OGBench, which exists for {OGBENCH_PYTHONS}")

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


def small_checkpoint(
    seed: int = 0,
    *,
    obs_dim: int = 5,
    action_dim: int = 3,
    hidden: tuple[int, ...] = (11, 10, 9),
    members: int = 2,
    aggregation: str = "min",
    activation: str = "gelu",
    steps: int = 6,
    dtype: str = "float64",
) -> Checkpoint:
    """Random networks whose LayerNorm scales, offsets and biases are not at their initial values,
    and whose velocities are large enough that some one-step estimates are clipped. It has every
    auxiliary network, of other widths.
    """
    rng = np.random.default_rng(seed)
    options = Options(activation, aggregation, steps, 1, True, 0.9, 0.8)

    def perturbed(a: Array) -> Array:
        return a + 0.2 * rng.standard_normal(a.shape)

    policy = init_velocity(rng, obs_dim, action_dim, hidden, dtype="float64").map(perturbed)
    critic = init_value(rng, obs_dim + action_dim, hidden, ensemble=members, dtype="float64")
    value = init_value(rng, obs_dim, hidden, dtype="float64")
    return Checkpoint(
        options,
        policy,
        critic.map(perturbed),
        critic.map(perturbed),
        value.map(perturbed),
        auxiliary=small_auxiliary(seed, obs_dim, action_dim),
    ).astype(dtype)


def small_auxiliary(seed: int, obs_dim: int, action_dim: int) -> AuxiliaryParams:
    """Random auxiliary networks, their parameters not at the initial values either."""
    rng = np.random.default_rng((seed, 1))

    def perturbed(a: Array) -> Array:
        return a + 0.2 * rng.standard_normal(a.shape)

    O, D, hidden = obs_dim, action_dim, (8, 7)
    return AuxiliaryParams(
        init_value(rng, O + D + DIM, hidden, dtype="float64").map(perturbed),
        conditional_params(rng, O, D, hidden).map(perturbed),
        init_velocity(rng, O, D, hidden, dtype="float64").map(perturbed),
    )


def conditional_params(
    rng: np.random.Generator, obs_dim: int, action_dim: int, hidden: Sequence[int]
) -> MLPParams:
    """Initial parameters of a `ConditionalVelocity`: a table, and a velocity's that reads it."""
    table = init_table(rng, "float64")
    trunk = init_velocity(rng, obs_dim + LABEL_COLUMNS, action_dim, hidden, dtype="float64")
    return MLPParams(trunk.layers, table)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return small_checkpoint()


def states(checkpoint: Checkpoint, rows: int, seed: int = 1) -> tuple[Array, Array]:
    """Observations (rows, O) and actions (rows, D), some of them outside [−1, 1]."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, checkpoint.obs_dim))
    return obs, rng.standard_normal((rows, checkpoint.flat_action_dim))
