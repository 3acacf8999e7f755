"""Reading OGBench files: against OGBench's own loader, and every kind of damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.data import datasets
from qgf_ref.data.datasets import find_dataset, has_dataset, load_transitions, read_dataset
from qgf_ref.data.tasks import dataset_env, relabel, seeded_reset, task
from tests.conftest import SHARED
from tests.data.synthetic import DATASET, TASK, episodes, write_dataset


def ogbench_loads(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """OGBench's own training and validation data."""
    ogbench = pytest.importorskip("ogbench")

    task(name)  # registers the environments and silences their warnings
    _, train, held_out = ogbench.make_env_and_datasets(name, dataset_path=str(path), cur_env=None)
    return train, held_out


def test_against_ogbenchs_own_loader(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    for ours, theirs in zip(
        (path, path.with_name(f"{DATASET}-val.npz")), ogbench_loads(path, TASK), strict=True
    ):
        data = load_transitions(ours, task(TASK), action_clip_eps=0.0)
        for name, array in vars(data).items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
            assert array.dtype == np.float32, name
    assert (load_transitions(path, task(TASK)).masks == 0).sum() >= 4


def test_the_real_data_set_against_ogbenchs_own_loader() -> None:
    path = SHARED / "data" / "cube-single-play-v0-val.npz"
    if not path.exists():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    pytest.importorskip("ogbench")
    from ogbench.relabel_utils import relabel_dataset
    from ogbench.utils import load_dataset

    problem = task("cube-single-play-singletask-task2-v0")
    theirs = load_dataset(path, add_info=True)
    env = problem.make_env()
    env.reset(seed=0)
    relabel_dataset(problem.env_id, env, theirs)
    data = load_transitions(path, problem, action_clip_eps=0.0)
    for name, array in vars(data).items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    clipped = load_transitions(path, problem)
    assert np.abs(clipped.actions).max() == np.float32(1 - 1e-5)


@pytest.mark.parametrize("task_name", [TASK, "cube-single-play-singletask-task1-v0"])
def test_rewards_are_those_of_the_state_before_the_action(task_name: str) -> None:
    """What a data set's state is labelled with is what a step from it returns."""
    problem = task(task_name)
    env = problem.make_env()
    seeded_reset(env, 0)
    world = env.unwrapped
    if "cube" in task_name:
        world._data.qpos[14:17] = world._data.mocap_pos[0]  # the cube lies where it should
        world.post_step()
        qpos = world._data.qpos
    else:
        world.set_xy(np.array(world.cur_goal_xy))
        qpos = world.data.qpos
    shape = env.observation_space.shape
    state = {"observations": np.zeros((1, *shape), np.float32), "qpos": qpos.copy()[None]}
    labels, _ = relabel(problem, state)
    # away from the goal as fast as an action can
    _, reward, *_ = env.step(env.action_space.high)
    assert labels[0] == reward == 0


def test_an_ogbench_that_judges_after_the_action_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gymnasium = pytest.importorskip("gymnasium")

    problem = task(TASK)
    monkeypatch.delitem(gymnasium.spec(problem.env_id).kwargs, "success_timing")
    with pytest.raises(InputError, match=r"ogbench>=1\.2"):
        problem.make_env()


def test_official_100m_masks(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    kept = load_transitions(path, task(TASK))
    official = load_transitions(path, task(TASK), masks="official-100m")
    success = kept.rewards == 0
    assert success.any()
    # the defect: bootstraps through success, and the end of every episode counts as one
    assert (kept.masks[success] == 0).all() and (official.masks[success] == 1).all()
    np.testing.assert_array_equal(official.masks, 1 - official.terminals)
    with pytest.raises(InputError, match="relabelled, official-100m"):
        load_transitions(path, task(TASK), masks="wrong")  # type: ignore[arg-type]


def damaged(tmp_path: Path, **changes: Any) -> Path:
    arrays = episodes() | changes
    path = tmp_path / "damaged.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


ARRAYS = episodes()
LONE = ARRAYS["terminals"].copy()
LONE[3] = True
DOUBLED = ARRAYS["terminals"].copy()
DOUBLED[:-1] |= DOUBLED[1:]
NAN = ARRAYS["observations"].copy()
NAN[5, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": None}, "lacks terminals; it holds observations, actions, qpos"),
        ({"qpos": None}, "lacks qpos"),
        (
            {"actions": 1.5 * ARRAYS["actions"]},
            r"actions must lie in \[−1, 1\]; the largest is 1.4",
        ),
        ({"observations": NAN}, r"observations must be finite: 1 of 168 .* \(5, 1\) \(nan\)"),
        ({"qpos": NAN}, r"qpos must be finite: 1 of 168"),
        ({"actions": ARRAYS["actions"][:-1]}, "differ in length"),
        ({"actions": ARRAYS["actions"][:, 0]}, r"shapes \(N, O\), \(N, A\), \(N,\)"),
        ({"terminals": np.zeros(84)}, "must end with the end of an episode.* in no row at all"),
        ({"terminals": np.roll(ARRAYS["terminals"], -2)}, "the last terminal is in row 81"),
        ({"terminals": LONE}, "episode 0 has 3 transitions, fewer than a chunk of 5"),
        (
            {"terminals": DOUBLED},
            r"last two rows of 4 episodes.*s_T alone\. Write terminals",
        ),
        ({"actions": np.array(["a"] * 84)[:, None]}, "must be numbers"),
        ({"observations": np.zeros((84, 7))}, r"observations of shape \(2,\), .* are \(7,\)"),
        ({"qpos": np.zeros(84)}, "does not fit pointmaze-medium-.*Is it the data set pointmaze"),
    ],
)
def test_damage_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_transitions(damaged(tmp_path, **changes), task(TASK), horizon=5)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=str(path)):
            load_transitions(path, task(TASK))


def _two_data_sets(tmp_path: Path) -> Path:
    place = tmp_path / "two"
    place.mkdir()
    for name in (DATASET, "cube-single-play-v0"):
        np.savez(place / f"{name}.npz", **episodes())
    return place


def test_finding_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dataset(tmp_path)
    held = tmp_path / f"{DATASET}-val.npz"
    for given in (path, tmp_path, str(path)):
        found = find_dataset(DATASET, given)
        assert (found.train, found.validation) == ((path,), held)
    held.unlink()
    assert find_dataset(DATASET, path).validation is None
    slices = tmp_path / "slices"
    slices.mkdir()
    for name in ("walks-000.npz", "walks-001.npz", "walks-000-val.npz"):
        np.savez(slices / name, **episodes())
    found = find_dataset(DATASET, slices)
    assert [p.name for p in found.train] == ["walks-000.npz", "walks-001.npz"]
    assert found.validation == slices / "walks-000-val.npz"
    above = tmp_path / "above"  # as `collect --slices` leaves them
    shutil.copytree(slices, above / DATASET)
    assert find_dataset(DATASET, above).train == tuple(
        above / DATASET / name for name in ("walks-000.npz", "walks-001.npz")
    )
    with pytest.raises(InputError, match=r"called pointmaze-medium.*data set is pointmaze-large"):
        find_dataset("pointmaze-large-navigate-v0", path)
    with pytest.raises(InputError, match=r"not the slices of one data set pointmaze-large"):
        find_dataset("pointmaze-large-navigate-v0", _two_data_sets(tmp_path))
    with pytest.raises(InputError, match="qgf-ref collect"):
        find_dataset(DATASET, tmp_path / "none.npz")

    monkeypatch.setattr(datasets, "CACHE", tmp_path)
    assert find_dataset(DATASET).train == (path,)
    monkeypatch.setattr("ogbench.utils.DATASET_URL", (tmp_path / "nowhere").as_uri())
    monkeypatch.setattr("ogbench.utils.DEFAULT_DATASET_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"could not be downloaded.*qgf-ref collect cube-single"):
        find_dataset("cube-single-play-v0")


def test_names() -> None:
    found = task("cube-single-play-singletask-task3-v0")
    assert (found.env_id, found.dataset) == (
        "cube-single-singletask-task3-v0",
        "cube-single-play-v0",
    )
    assert task("puzzle-3x3-noisy-singletask-v0").dataset == "puzzle-3x3-noisy-v0"
    assert dataset_env("pointmaze-medium-navigate-v0") == ("pointmaze-medium-v0", "navigate")
    for name, message in (
        ("cube-single-play-v0", "ENV-TYPE-singletask"),
        ("cube-single-play-singletask-task6-v0", "cube-single-play-singletask-task5-v0"),
        ("nonsense", "unknown task 'nonsense'"),
    ):
        with pytest.raises(InputError, match=message):
            task(name)
    for name in ("cube-single-play-singletask-v0", "cube-sngle-play-v0"):
        with pytest.raises(InputError, match="cube-single"):
            dataset_env(name)


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (("a-000", "a-002"), "a-001.npz"),
        (("a-1", "a-2", "a-5"), "a-3.npz, a-4.npz"),
        (("a-000", "a-001", "a-000-val", "a-001-val", "a-002-val"), "a-002.npz"),
        (("a-000", "a-001", "a-002", "a-000-val", "a-001-val"), "a-002-val.npz"),
        (("a-000", "a-001.npz.part"), "a-001.npz"),
        (("a-000", "a-001.npz.crdownload", "a-000.npz.md5"), "a-001.npz"),
        (("a-000", ".a-001.npz.Qz81hF"), "a-001.npz"),
        (("a-000", "a-001.npz.link"), "a-001.npz"),
    ],
)
def test_a_missing_part_is_named(present: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    for name in present:
        if name.endswith(".link"):  # to nowhere, as of a disk that is not mounted
            (tmp_path / name.removesuffix(".link")).symlink_to(tmp_path / "nowhere")
        else:
            (tmp_path / (name if ".npz" in name else f"{name}.npz")).write_bytes(b"")
    with pytest.raises(InputError, match=f"lacks {missing}: put them there"):
        find_dataset(DATASET, tmp_path)


def test_the_last_part_is_missed_by_what_collect_wrote(tmp_path: Path) -> None:
    place = tmp_path / DATASET
    place.mkdir()
    names = [f"{DATASET}/{DATASET}-{n:03d}.npz" for n in range(3)]
    (tmp_path / f"{DATASET}.json").write_text(json.dumps({"files": names}))
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"lacks {DATASET}-002.npz"):
        find_dataset(DATASET, place)


@pytest.mark.parametrize("content", [b"", b"<html>busy</html>", b"PK\x03\x04 cut short"])
def test_a_damaged_file_in_the_cache_says_how_to_get_another(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{DATASET}.npz"
    path.write_bytes(content)
    with pytest.raises(InputError) as elsewhere:
        read_dataset(path, ("observations",))
    assert "cache" not in str(elsewhere.value)
    monkeypatch.setattr(datasets, "CACHE", tmp_path)
    with pytest.raises(InputError, match=rf"remove it \(rm {path}\), and it is fetched again"):
        read_dataset(path, ("observations",))


def test_slices_in_the_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CACHE", tmp_path)
    (tmp_path / DATASET).mkdir()
    paths = [tmp_path / DATASET / f"{DATASET}-{n:03d}.npz" for n in range(3)]
    for path in paths:
        np.savez(path, observations=np.zeros((2, 3)))
    assert len(find_dataset(DATASET).train) == 3
    # one that was cut off is told at once, not when its turn comes
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    with pytest.raises(InputError) as error:
        find_dataset(DATASET)
    assert f"{paths[2]} is not a readable npz" in str(error.value)
    assert f"remove it (rm {paths[2]}) and put it there again" in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "osmesa"},
        {"MUJOCO_GL": "glx"},
        {"MUJOCO_GL": "cgl", "PYOPENGL_PLATFORM": "osmesa"},
        {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "7"},
    ],
)
def test_what_draws_nothing_loads_no_opengl(variables: dict[str, str]) -> None:
    code = f"from qgf_ref.data.tasks import task; task({TASK!r}).make_env().close()"
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_said_of_doubled_terminals_mends_them() -> None:
    terminals = DOUBLED.copy()
    terminals[:-1][terminals[1:] > 0] = 0
    np.testing.assert_array_equal(terminals, ARRAYS["terminals"])


def test_whether_a_data_set_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a download, wherever it is looked for."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(datasets, "CACHE", cache)
    assert not has_dataset(DATASET, None)
    assert not has_dataset(DATASET, cache)
    assert not has_dataset(DATASET, tmp_path / "nowhere")
    write_dataset(cache)
    assert has_dataset(DATASET, None)
    assert has_dataset(DATASET, cache)
    assert not has_dataset("scene-play-v0", None)
