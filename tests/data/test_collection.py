"""Collected episodes: format, dependence on the seed alone, resumption, damage, dying workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.data.collection.collect import CollectionPlan, collect, make_plan
from qgf_ref.data.collection.episode import Episode, collect_episode
from qgf_ref.data.collection.manipulation import is_healthy
from qgf_ref.data.collection.maze import goal_cells
from qgf_ref.data.collection.parts import (
    alone,
    kept_episodes,
    merge,
    part_path,
    take_over,
    write_part,
)
from qgf_ref.data.collection.recipe import recipe
from qgf_ref.data.collection.workers import Collector, Job
from qgf_ref.errors import InputError
from qgf_ref.files import read_npz
from qgf_ref.processes import Crew, WorkerError
from tests.conftest import SHARED
from tests.helpers.some import some

MAZE = "pointmaze-medium-navigate-v0"


def plan(out: Path, name: str = MAZE, **options: Any) -> CollectionPlan:
    return make_plan(name, out=out, **{"episodes": 3, "episode_steps": 20, **options})


def contents(done: Any) -> list[bytes]:
    return [path.read_bytes() for path in done.files]


@pytest.mark.parametrize(
    "name",
    ["antmaze-medium-navigate-v0", "pointmaze-medium-stitch-v0", "cube-single-navigate-v0"],
)
def test_a_data_set_that_no_oracle_makes_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"cube-\*, puzzle-\* and scene .* pointmaze-\* with nav"):
        recipe(name)


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set"):
        recipe("cube-single-play-v1")
    with pytest.raises(InputError, match="at least 2 steps, got 1"):
        recipe(MAZE, 1)
    with pytest.raises(InputError, match="at least 1, got 0 training"):
        plan(tmp_path, episodes=0)
    with pytest.raises(InputError, match="each of the 4 slices, got 3 training"):
        plan(tmp_path, slices=4)
    with pytest.raises(InputError, match="at least 1 worker, got 0"):
        collect(plan(tmp_path), workers=0)


def test_recipes_are_ogbench_s() -> None:
    assert recipe("cube-double-play-v0").p_stack == (0.0, 0.25)
    assert recipe("scene-noisy-v0").p_random_action == 0.1
    assert recipe("puzzle-4x4-noisy-v0").p_random_action == 0.2
    assert recipe("pointmaze-giant-navigate-v0").episode_steps == 2001
    assert recipe(MAZE).noise == 0.5
    assert make_plan(MAZE).episodes == {"train": 1000, "val": 100}
    assert make_plan(MAZE, episodes=3).episodes == {"train": 3, "val": 1}


def test_goals_are_not_inside_corridors() -> None:
    walls = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 1, 1], [1] * 5])
    # (1, 2) lies between left and right, (2, 1) between up and down; ends and corners may be goals
    assert goal_cells(walls) == [(1, 1), (1, 3), (2, 3), (3, 1)]


def replayed(env: Any, episode: Episode) -> Array:
    """Where each recorded action leads from the recorded state before it."""
    env.reset(seed=0)
    result = []
    for qpos, qvel, action in zip(episode["qpos"], episode["qvel"], episode["actions"]):
        env.unwrapped.set_state(qpos.astype(float), qvel.astype(float))
        result.append(env.unwrapped.step(action.astype(float))[0])
    return np.array(result)


def test_a_maze_episode_is_what_happened() -> None:
    chosen = recipe(MAZE, 300)
    env = chosen.make_env()
    episode, _ = collect_episode(env, chosen, 0, "train", 0)
    assert {k: (v.shape, v.dtype.name) for k, v in episode.items()} == {
        "observations": ((300, 2), "float32"),
        "actions": ((300, 2), "float32"),
        "terminals": ((300,), "bool"),
        "qpos": ((300, 2), "float32"),
        "qvel": ((300, 2), "float32"),
    }
    np.testing.assert_array_equal(np.flatnonzero(episode["terminals"]), [299])
    np.testing.assert_array_equal(episode["observations"], episode["qpos"])
    after = replayed(env, episode)
    np.testing.assert_allclose(after[:-1], episode["observations"][1:], atol=1e-5)
    assert np.abs(episode["actions"]).max() <= 1
    assert len({env.unwrapped.xy_to_ij(xy) for xy in episode["qpos"]}) > 5
    assert np.isfinite(env.unwrapped.model.geom_pos).all()


@pytest.mark.parametrize(
    ("name", "steps", "number"),
    # in this scene episode the first target is reached and the next one is of another kind, whose
    # target the environment still remembers from the episode before
    some([(MAZE, 50, 1), ("scene-noisy-v0", 60, 5)], 1),
)
def test_an_episode_depends_on_its_number_alone(name: str, steps: int, number: int) -> None:
    chosen = recipe(name, steps)
    used, fresh = chosen.make_env(), chosen.make_env()
    first, other = (collect_episode(used, chosen, 7, "train", index)[0] for index in (0, number))
    np.random.seed(5)  # noqa: NPY002
    again = collect_episode(fresh, chosen, 7, "train", number)[0]
    for key, array in other.items():
        np.testing.assert_array_equal(again[key], array)
    held_out = collect_episode(used, chosen, 7, "val", number)[0]
    reseeded = collect_episode(used, chosen, 8, "train", number)[0]
    for different in (first, held_out, reseeded):
        assert not np.array_equal(different["actions"], other["actions"])
    if "button_states" in other:
        assert other["button_states"].dtype == np.int64


def test_the_format_is_that_of_the_shared_data_set() -> None:
    path = SHARED / "data" / "cube-single-play-v0-val.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    chosen = recipe("cube-single-play-v0", 5)
    episode, _ = collect_episode(chosen.make_env(), chosen, 0, "train", 0)
    with np.load(path) as file:
        assert list(episode) == file.files
        for key, array in episode.items():
            assert (array.dtype, array.shape[1:]) == (file[key].dtype, file[key].shape[1:])


@pytest.mark.parametrize(
    ("y", "z", "healthy"),
    [(0.0, 0.02, True), (0.29, 0.07, False), (-0.31, 0.07, True), (-0.31, 0.02, False)],
)
def test_a_lost_cube_is_noticed(y: float, z: float, healthy: bool) -> None:
    joint = SimpleNamespace(qposadr=np.array([14]))
    env = SimpleNamespace(unwrapped=SimpleNamespace(model=SimpleNamespace(joint=lambda _: joint)))
    qpos = np.zeros((3, 25))
    qpos[1, 15:17] = y, z
    assert is_healthy(env, recipe("scene-play-v0"), qpos) is healthy
    assert is_healthy(env, recipe("cube-single-play-v0"), qpos)


def fake_episode(steps: int, value: float) -> Episode:
    """An episode of the maze's format with `value` everywhere."""
    full = np.full((steps, 2), value, dtype=np.float32)
    ends = np.arange(steps) == steps - 1
    names = ("observations", "actions", "qpos", "qvel")
    return {**dict.fromkeys(names, full), "terminals": ends}


def test_merging_is_concatenation(tmp_path: Path) -> None:
    episodes = [fake_episode(4, 1.0), fake_episode(3, 2.0)]
    for index, episode in enumerate(episodes):
        write_part(tmp_path, "train", index, episode)
    parts = [part_path(tmp_path, "train", index) for index in range(2)]
    done: list[int] = []
    assert merge(parts, tmp_path / "all.npz", done.append) == 7
    assert len(done) == 10
    merged = read_npz(tmp_path / "all.npz", ())
    for key, array in merged.items():
        np.testing.assert_array_equal(array, np.concatenate([e[key] for e in episodes]))
        assert array.dtype == episodes[0][key].dtype
    write_part(tmp_path, "train", 1, {**episodes[1], "qpos": np.zeros((3, 5), np.float32)})
    with pytest.raises(InputError, match="qpos does not fit"):
        merge(parts, tmp_path / "all.npz", done.append)
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged.* Delete it"):
        merge(parts, tmp_path / "all.npz", done.append)


def test_the_number_of_workers_leaves_no_trace(tmp_path: Path) -> None:
    ogbench = pytest.importorskip("ogbench")

    one, two = (collect(plan(tmp_path / str(k)), workers=k) for k in (1, 2))
    assert contents(one) == contents(two)
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == sorted(
        (f"{MAZE}.npz", f"{MAZE}-val.npz", f"{MAZE}.json")
    )
    assert one.transitions == {"train": 60, "val": 20}
    _, train, val = ogbench.make_env_and_datasets(MAZE, dataset_path=str(one.files[0]))
    assert len(train["observations"]) == 3 * 19
    np.testing.assert_array_equal(np.flatnonzero(train["terminals"]), [18, 37, 56])
    np.testing.assert_array_equal(np.flatnonzero(val["terminals"]), [18])
    np.testing.assert_array_equal(train["next_observations"][:18], train["observations"][1:19])


@pytest.mark.slow
def test_cubes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one, two = (
        collect(plan(tmp_path / str(k), "cube-single-noisy-v0", episodes=2), workers=k)
        for k in (1, 2)
    )
    assert contents(one) == contents(two)


def test_kept_episodes_are_taken_over(tmp_path: Path) -> None:
    chosen = plan(tmp_path)
    chosen.parts.mkdir()
    take_over(chosen.parts, chosen.configuration(), overwrite=False)
    write_part(chosen.parts, "train", 1, fake_episode(20, 42.0))
    part_path(chosen.parts, "train", 0).write_bytes(b"torn")
    write_part(chosen.parts, "train", 7, fake_episode(20, 43.0))
    done = collect(chosen)
    assert done.episodes == 3
    assert kept_episodes(chosen.parts) == {("train", 7)}
    with np.load(done.files[0]) as file:
        assert (file["qpos"][20:40] == 42).all()
        assert not (file["qpos"][:20] == 42).any()


def test_episodes_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    old, new = plan(tmp_path, seed=1), plan(tmp_path, episodes=1)
    old.parts.mkdir()
    take_over(old.parts, old.configuration(), overwrite=False)
    write_part(old.parts, "train", 0, fake_episode(20, 42.0))
    with pytest.raises(InputError, match=r"seed was 1, is now 0.*--overwrite"):
        collect(new)
    assert kept_episodes(old.parts) == {("train", 0)}
    done = collect(new, overwrite=True)
    with np.load(done.files[0]) as file:
        assert not (file["qpos"] == 42).any()
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        collect(new)


def test_slices_come_in_pairs(tmp_path: Path) -> None:
    whole = collect(plan(tmp_path, val_episodes=2))
    sliced = plan(tmp_path, val_episodes=2, slices=2)
    done = collect(sliced, overwrite=True)
    assert [p.relative_to(tmp_path).as_posix() for p in done.files] == [
        f"{MAZE}/{MAZE}-{k:03d}{suffix}.npz" for suffix in ("", "-val") for k in range(2)
    ]
    for together, pieces in zip(whole.files, (done.files[:2], done.files[2:])):
        parts = [read_npz(path, ()) for path in pieces]
        for key, array in read_npz(together, ()).items():
            np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), array)
    with pytest.raises(InputError, match="exists already"):
        collect(plan(tmp_path, slices=3))


def test_only_one_process_collects_a_data_set(tmp_path: Path) -> None:
    chosen = plan(tmp_path)
    with alone(chosen.parts), pytest.raises(InputError, match="another process is collecting"):
        collect(chosen)


def test_a_dying_worker_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    jobs = [Job("train", index) for index in range(1000)]
    with Crew(Collector(recipe(MAZE, 200), 0, tmp_path), 2, "It goes on.") as crew:
        running = crew.run(jobs)
        next(running)
        pid = multiprocessing.active_children()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            WorkerError, match=r"killed by signal 9\) on train episode .* It goes on"
        ):
            list(running)
    assert not multiprocessing.active_children()
    assert kept_episodes(tmp_path)


def test_an_unwritable_place_is_the_workers_input_error(tmp_path: Path) -> None:
    collector = Collector(recipe(MAZE, 5), 0, tmp_path / "gone")
    with Crew(collector, 2, "") as crew, pytest.raises(InputError, match="there is no directory"):
        list(crew.run([Job("train", 0)]))
