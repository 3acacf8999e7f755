"""Goal-conditioned data sets: names, representations, files, slices, and what goes wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.data.datasets import find_dataset
from qgf_ref.data.goals.batches import sample_goal_batch
from qgf_ref.data.goals.representation import (
    as_goals,
    goal_representation,
    oracle_representation,
)
from qgf_ref.data.goals.sampling import GoalSampling
from qgf_ref.data.goals.trajectories import load_trajectories
from qgf_ref.data.slices import SliceStream
from qgf_ref.data.tasks import dataset_env, goal_task, is_dataset_name, seeded_reset, task
from qgf_ref.errors import InputError
from tests.data.synthetic import DATASET, TASK, episodes, write_dataset

ORACLE = "pointmaze-medium-navigate-oraclerep-v0"
PARTS = {
    "cube-double-v0": {"_num_cubes": 2},
    "cube-octuple-v0": {"_num_cubes": 8},
    "puzzle-4x5-v0": {"_num_buttons": 20},
    "scene-v0": {"_num_cubes": 1, "_num_buttons": 2},
    "humanoidmaze-giant-v0": {},
    "antsoccer-arena-v0": {},
}
WIDTHS = dict(zip(PARTS, (6, 24, 20, 7, 2, 2), strict=True))


def test_names() -> None:
    found = goal_task("cube-triple-play-oraclerep-v0")
    assert (found.env_id, found.dataset, found.oracle) == (
        "cube-triple-v0",
        "cube-triple-play-v0",
        True,
    )
    plain = goal_task("puzzle-4x6-noisy-v0")
    assert (plain.dataset, plain.oracle) == ("puzzle-4x6-noisy-v0", False)
    assert goal_representation(plain) is None
    assert goal_task("humanoidmaze-giant-navigate-oraclerep-v0").env_id == "humanoidmaze-giant-v0"
    assert found.reset_options(5) == {"task_id": 5}
    with pytest.raises(InputError, match="goals 1 to 5, not 6"):
        found.reset_options(6)
    assert not is_dataset_name(found.name) and is_dataset_name(found.dataset)
    with pytest.raises(InputError, match="data set of this task is cube-triple-play-v0"):
        dataset_env(found.name)


def test_single_tasks_and_goals_are_told_apart() -> None:
    """Each is one sentence that names the other's right name."""
    for name in ("cube-triple-play-oraclerep-v0", "cube-triple-play-v0"):
        with pytest.raises(InputError, match=r"goal-conditioned .* cube-triple-play-singletask-ta"):
            task(name)
    with pytest.raises(InputError, match=r"single task, .*cube-triple-play-oraclerep-v0, or"):
        goal_task("cube-triple-play-singletask-task1-v0")
    for wrong in ("cube-tripel-play-oraclerep-v0", "cube-triple-oraclerep-v0"):
        with pytest.raises(InputError, match=r"unknown goal-conditioned .*cube-triple-v0"):
            goal_task(wrong)


@pytest.mark.parametrize("env_id", PARTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_representations_are_ogbenchs(env_id: str, dtype: str) -> None:
    relabel_utils = pytest.importorskip("ogbench.relabel_utils")
    rng = np.random.default_rng(0)
    parts, width = PARTS[env_id], WIDTHS[env_id]
    theirs = {"qpos": rng.standard_normal((50, 14 + 7 * 8 + 4)).astype(dtype)}
    if "_num_buttons" in parts:
        theirs["button_states"] = rng.integers(0, 2, (50, parts["_num_buttons"]))
    ours = dict(theirs)
    env = SimpleNamespace(unwrapped=SimpleNamespace(**parts))
    relabel_utils.add_oracle_reps(env_id, env, theirs)
    found = oracle_representation(env_id)
    source = found.source(ours, "file")
    assert found.width == width == source.shape[1]
    assert source.nbytes <= width * 50 * np.dtype(dtype).itemsize
    assert found.of(source).tobytes() == theirs["oracle_reps"].tobytes()


def test_a_representation_that_the_file_lacks() -> None:
    puzzle, cubes = oracle_representation("puzzle-4x5-v0"), oracle_representation("cube-triple-v0")
    with pytest.raises(InputError, match=r"f.npz lacks button_states.*without -oraclerep"):
        puzzle.source({"qpos": np.zeros((3, 40))}, "f.npz")
    with pytest.raises(InputError, match=r"20 columns for goals of width 20.* \(3, 24\)"):
        puzzle.source({"button_states": np.zeros((3, 24))}, "f.npz")
    with pytest.raises(InputError, match=r"at least 31 columns for goals of width 9.* \(3, 21\)"):
        cubes.source({"qpos": np.zeros((3, 21))}, "f.npz")
    with pytest.raises(InputError, match="no oracle goal representation is known for powderworld"):
        oracle_representation("powderworld-easy-v0")


def test_a_goal_of_the_wrong_width() -> None:
    assert as_goals(np.zeros(3), 3).shape == (1, 3)
    assert as_goals(np.zeros((2, 3)), 3).dtype == np.float32
    for goal in (np.zeros(28), np.zeros((2, 1, 3)), 1.0):
        with pytest.raises(InputError, match=r"goals must be 3 wide.*use_oracle_rep"):
            as_goals(goal, 3)
    with pytest.raises(InputError, match="finite"):
        as_goals([[np.nan, 0, 0]], 3)


@pytest.mark.parametrize("name", [ORACLE, DATASET])
def test_against_ogbenchs_own_compact_loader(tmp_path: Path, name: str) -> None:
    ogbench = pytest.importorskip("ogbench")
    path, problem = write_dataset(tmp_path), goal_task(name)
    _, theirs, _ = ogbench.make_env_and_datasets(name, dataset_path=str(path), compact_dataset=True)
    ours = load_trajectories(path, problem, horizon=5, action_clip_eps=0.0)
    np.testing.assert_array_equal(ours.observations, theirs["observations"])
    np.testing.assert_array_equal(ours.actions, theirs["actions"])
    rows = np.arange(len(ours.observations))
    goals = theirs["oracle_reps"] if problem.oracle else theirs["observations"]
    np.testing.assert_array_equal(ours.goals(rows), goals)
    np.testing.assert_array_equal(ours.ends, np.flatnonzero(theirs["valids"] == 0))
    terminals = np.flatnonzero(theirs["terminals"])
    np.testing.assert_array_equal(ours.finals(rows), terminals[terminals.searchsorted(rows)])
    clipped = load_trajectories(path, problem, horizon=5)
    assert np.abs(clipped.actions).max() <= np.float32(1 - 1e-5)
    # whole observations as goals take no memory of their own; xy columns, that of the columns
    held = ours.observations.nbytes + ours.actions.nbytes + ours.ends.nbytes
    assert ours.nbytes == held + (8 * len(rows) if problem.oracle else 0)


def test_the_environments_goal_is_the_representation() -> None:
    problem = goal_task(ORACLE)
    env = problem.make_env()
    seeded_reset(env, 0)
    _, info = env.reset(options=problem.reset_options(2))
    goal = as_goals(info["goal"], 2)
    np.testing.assert_array_equal(goal[0], np.float32(env.unwrapped.cur_goal_xy))
    whole = goal_task(DATASET).make_env()
    _, info = whole.reset(seed=0, options={"task_id": 1})
    assert as_goals(info["goal"], whole.observation_space.shape[0]).shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cube-double-play", "puzzle-3x3-noisy", "scene-play"])
def test_a_states_representation_is_the_environments(name: str) -> None:
    """Of a file's qpos and button_states, against what the environment itself says."""
    problem = goal_task(f"{name}-oraclerep-v0")
    env = problem.make_env()
    seeded_reset(env, 0)
    world, found = env.unwrapped, goal_representation(problem)
    assert found is not None
    for _ in range(3):
        env.step(env.action_space.sample())
        state = {"qpos": world._data.qpos[None].copy()}
        if "button_states" in found.needs:
            state["button_states"] = world._cur_button_states[None].copy()
        own = as_goals(world.compute_oracle_observation(), found.width)
        np.testing.assert_array_equal(found.of(found.source(state, "the simulator")), own)


def test_short_episodes_are_counted(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    arrays = episodes()
    arrays["terminals"][[3, 9]] = True
    np.savez(path, **arrays)
    message = r"2 of 6 episodes have no more than 5 transitions .* \(episode 0 has 3\)"
    with pytest.raises(InputError, match=message):
        load_trajectories(path, goal_task(ORACLE), horizon=5)
    kept = load_trajectories(path, goal_task(ORACLE), horizon=5, short="skip")
    assert kept.too_short(5) == 2 and len(kept.starts(5)) == 11 - 1 - 5 + 3 * (20 - 5)
    with pytest.raises(InputError, match="refuse, skip"):
        load_trajectories(path, goal_task(ORACLE), short="keep")  # type: ignore[arg-type]
    arrays["terminals"][4] = True
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="episode 1 has 0 transitions"):
        load_trajectories(path, goal_task(ORACLE), short="skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": None}, "lacks terminals"),
        ({"qpos": None}, "lacks qpos, of which the oracle representation of pointmaze-medium-v0"),
        ({"qpos": np.zeros((84, 1))}, "qpos must have at least 2 columns"),
        ({"observations": np.zeros((84, 7))}, "observations of width 2.* has 7: is it the data"),
        ({"actions": np.full((84, 2), 1.5)}, r"actions must lie in \[−1, 1\]"),
        ({"actions": np.zeros((83, 2))}, "differ in length"),
        ({"terminals": np.arange(84) % 21 > 18}, "last two rows of 4 episodes, which reads as 4"),
    ],
)
def test_damage_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: a for name, a in (episodes() | changes).items() if a is not None}
    np.savez(tmp_path / "damaged.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_trajectories(tmp_path / "damaged.npz", goal_task(ORACLE))


def test_slices_hold_no_more_than_the_data(tmp_path: Path) -> None:
    problem = goal_task(ORACLE)
    place = tmp_path / "slices"
    place.mkdir()
    for n in range(3):
        np.savez(place / f"{DATASET}-{n:03d}.npz", **episodes(seed=n))
    found = find_dataset(problem.dataset, place)
    sampling = GoalSampling(5, 0.9)
    alone = [load_trajectories(path, problem, horizon=5) for path in found.train]
    with SliceStream(
        found.train, lambda path: load_trajectories(path, problem, horizon=5), every=2
    ) as stream:
        for update in range(1, 9):
            batch = sample_goal_batch(np.random.default_rng(update), stream.at(update), 6, sampling)
            again = sample_goal_batch(
                np.random.default_rng(update), alone[stream.index(update)], 6, sampling
            )
            for name in (field.name for field in dataclasses.fields(batch)):
                mine: Array = getattr(batch, name)
                np.testing.assert_array_equal(mine, getattr(again, name), err_msg=name)
    assert stream.peak_bytes <= 2 * alone[0].nbytes


def test_a_single_tasks_file_serves_both(tmp_path: Path) -> None:
    """The names differ, the file is the same."""
    path = write_dataset(tmp_path)
    assert task(TASK).dataset == goal_task(ORACLE).dataset == path.stem
