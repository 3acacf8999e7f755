"""Distances to the data and to the oracle: planted neighbours, and a whole study on a tiny maze."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.data.tasks import task as ogbench_task
from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.ood_distance.data_actions import DataActions, whole_chunks
from qgf_ref.studies.ood_distance.study import study
from qgf_ref.studies.ood_distance.words import BC, Distances, distance_at, ood_claim
from qgf_ref.studies.shared.trained import interval, observations
from tests.conftest import small_checkpoint
from tests.data.synthetic import TASK, write_dataset
from tests.studies.lines import drawn


def maze_checkpoint(seed: int = 0, obs_dim: int = 2, action_dim: int = 4) -> Checkpoint:
    """Random networks for chunks of two actions in the maze."""
    checkpoint = small_checkpoint(
        seed, obs_dim=obs_dim, action_dim=action_dim, hidden=(8, 7), steps=3, dtype="float32"
    )
    return replace(checkpoint, options=replace(checkpoint.options, horizon_length=2))


def test_nearest_chunks_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    chunks = rng.standard_normal((50, 4)).astype(np.float32)
    states = rng.standard_normal((50, 3)) * (1, 100, 0)  # the last feature never varies
    data = DataActions(chunks, states, near=5)
    actions, obs = 3 * rng.standard_normal((8, 4)), states[:8]
    every = np.linalg.norm(actions[:, None] - chunks, axis=-1)
    np.testing.assert_allclose(data.distance(actions), every.min(axis=1), rtol=1e-12)
    assert (data.distance(chunks) == 0).all()
    near = data.neighbours(obs)
    assert near.shape == (8, 5)
    # a state's own chunk is the nearest; the scale makes both features count alike
    assert (near[:, 0] == np.arange(8)).all()
    z = states[:, :2] / states[:, :2].std(axis=0)
    nearest = np.linalg.norm(z[:8, None] - z, axis=-1).argsort(axis=1)[:, :5]
    assert (np.sort(near) == np.sort(nearest)).all()
    local = data.local_distance(actions, near)
    np.testing.assert_allclose(local, np.take_along_axis(every, near, 1).min(axis=1), rtol=1e-6)
    assert (local >= data.distance(actions) - 1e-12).all()


def test_chunks_stay_in_their_episodes(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, count=3, steps=8)  # 7 transitions an episode, odd
    chunks, states = whole_chunks(path, ogbench_task(TASK), maze_checkpoint())
    with np.load(path) as file:
        actions, obs = file["actions"].reshape(3, 8, 2), file["observations"].reshape(3, 8, 2)
    joined = actions[:, :7].reshape(-1, 2).clip(-1 + 1e-5, 1 - 1e-5)
    # of the starts 0, 2, …, the one at 6 would cross the first end, at 7 the second begins
    starts = [s for s in range(0, 20, 2) if s // 7 == (s + 1) // 7]
    np.testing.assert_array_equal(chunks, [joined[s : s + 2].ravel() for s in starts])
    np.testing.assert_array_equal(states, obs[:, :7].reshape(-1, 2)[starts])
    with pytest.raises(InputError, match="give --data the data set that it was trained on"):
        whole_chunks(path, ogbench_task(TASK), maze_checkpoint(action_dim=6))


def test_distance_at_equal_q() -> None:
    def point(x: float) -> Estimate:
        return Estimate(x, x, x)

    at: dict[tuple[str, float | None, str], Estimate] = {
        (BC, None, "q"): point(0.0),
        (BC, None, "data"): point(1.0),
    }
    for w, q, d in ((0.1, 2.0, 2.0), (1.0, 1.0, 9.0)):
        at |= {("ood", w, "q"): point(q), ("ood", w, "data"): point(d)}
    assert distance_at(at, "ood", (0.1, 1.0), 0.5) == pytest.approx(1.25)
    assert distance_at(at, "ood", (0.1, 1.0), 2.5) is None


@pytest.mark.parametrize(
    ("ood", "verdict"), [(2.0, "yes"), (1.0, "within the intervals"), (0.5, "no")]
)
def test_the_verdict_follows_the_planted_distances(ood: float, verdict: str) -> None:
    rows = np.linspace(0, 5, 20)  # differs between rows, paired between estimators
    wobble = 0.01 * np.where(np.arange(20) % 2, 1, -1)
    distances: Distances = {
        ("ood", 1.0): [{"data": rows + ood + wobble}],
        ("qgf", 1.0): [{"data": rows + 1.0}],
    }
    assert f"{verdict} at w = 1." in ood_claim(distances, ["qgf"], (1.0,))


def test_intervals_over_checkpoints_or_observations() -> None:
    one = interval([np.array([1.0, 2.0, np.nan, 3.0])])
    assert one.value == 2.0
    assert 1.0 <= one.low < 2.0 < one.high <= 3.0
    # Student's t of 1, 2, 3: 4.303 · 1/√3
    several = interval([np.full(5, 1.0), np.full(5, 2.0), np.full(5, 3.0)])
    assert several == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert np.isnan(interval([np.array([np.nan])]).value)


def test_the_study(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    settings = StudySettings(
        quick=True,
        estimators=("ood", "qgf"),
        checkpoints=(maze_checkpoint(), maze_checkpoint(1)),
        task=TASK,
        data=str(tmp_path),
    )
    found = study(settings)
    at = {(r["estimator"], r["weight"], r["measure"]): r["value"] for r in found.tables[""]}
    for name, weight in {(n, w) for n, w, _ in at}:
        assert at[name, weight, "local"] >= at[name, weight, "data"]
    assert at["bfn-64", None, "q"] > at[BC, None, "q"]
    assert at["bfn-64", None, "oracle"] < at[BC, None, "oracle"]
    assert at["ood", 0.01, "oracle"] == pytest.approx(at[BC, None, "oracle"], abs=0.05)
    assert ("held-out data", None, "data") in at
    assert max(map(len, found.text.splitlines())) <= 100
    assert drawn("ood-distance", found) == {"", "against_q"}
    assert study(settings).tables == found.tables
    compiled = study(replace(settings, backend="numba")).tables[""]
    assert len(compiled) == len(found.tables[""])
    for ours, theirs in zip(compiled, found.tables[""], strict=True):
        # float32 after three steps; measured 2e-8
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-6)


def test_observations_come_from_the_validation_episodes(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    settings = StudySettings(checkpoints=(maze_checkpoint(),), task=TASK, data=str(tmp_path))
    obs = observations(settings, 0, 10)
    with np.load(path.with_name(f"{path.stem}-val.npz")) as file:
        rows = {tuple(row) for row in file["observations"]}
    assert obs.shape == (10, 2)
    assert {tuple(row) for row in obs} <= rows
    wide = replace(settings, checkpoints=(maze_checkpoint(obs_dim=3),))
    with pytest.raises(InputError, match=r"must have shape \(rows, 3\)"):
        observations(wide, 0, 10)
    with pytest.raises(InputError, match="give --task"):
        observations(replace(settings, task=None), 0, 10)
