"""Nothing that users see changes its value: this tree against an old commit, on this machine.

Last bits depend on the processor, BLAS and the compiler, so no hash is stored. The old commit is
unpacked from the history and both trees are recorded in the same environment; bytes must be equal.
Where a change of bits is meant, it is listed here with its reason.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from tests.data.synthetic import write_dataset

OLD = "4b0d2025b5f47174beed1a3dda6e04e65d768ec5"
ROOT = Path(__file__).resolve().parents[2]

RECORDED_SINCE: dict[str, float] = {}
"""Estimator → the most by which `sample(backend="numba")` may differ from the old commit, where it
was run layer by layer: it is a recorded program now, equal to rounding."""


def old_tree(directory: Path) -> Path:
    """The old commit's package, from the history."""
    archive = subprocess.run(
        ["git", "archive", OLD, "qgf_ref"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"needs commit {OLD[:7]}, which this checkout's history does not have")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What was recorded of the old tree, and of this one."""
    place = tmp_path_factory.mktemp("replay")
    data = write_dataset(place, count=6, steps=41)
    trees = {"old": old_tree(place / "tree"), "new": Path(qgf_ref.__file__).parents[1]}
    running = {}
    for name, tree in trees.items():
        environment = os.environ | {"PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"}
        arguments = [str(ROOT / "tests/replay/recorder.py"), str(place / name), str(data)]
        running[name] = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    for name, process in running.items():
        with process:
            _, errors = process.communicate()
        assert process.returncode == 0, f"{name}: {errors.decode()}"
    return place / "old" / "kept", place / "new" / "kept"


def test_the_old_tree_was_recorded_with_the_old_code(recordings: tuple[Path, Path]) -> None:
    old, _ = recordings
    assert (old.parents[1] / "tree" / "qgf_ref" / "interop" / "checkpoint.py").exists()
    assert len(list(old.iterdir())) >= 50


def test_training_files_and_commands_keep_every_byte(recordings: tuple[Path, Path]) -> None:
    old, new = recordings
    names = {path.name for path in old.glob("*.json")}
    assert names == {path.name for path in new.glob("*.json")}
    for name in sorted(names):
        assert (old / name).read_text() == (new / name).read_text(), name


def test_whole_and_killed_runs_end_alike(recordings: tuple[Path, Path]) -> None:
    for kept in recordings:
        for backend in ("numpy", "numba"):
            whole, broken = (kept / f"{how}-{backend}.json" for how in ("train", "resumed"))
            assert whole.read_text() == broken.read_text()


def test_sampled_numbers_keep_every_bit(recordings: tuple[Path, Path]) -> None:
    old, new = recordings
    names = {path.name for path in old.glob("*.npz")}
    assert names == {path.name for path in new.glob("*.npz")}
    for name in sorted(names):
        with np.load(old / name) as before, np.load(new / name) as after:
            assert set(before) == set(after), name
            for quantity in before:
                loose = RECORDED_SINCE.get(name.split("-")[1]) if "numba" in quantity else None
                if loose is None:
                    np.testing.assert_array_equal(
                        before[quantity], after[quantity], f"{name}: {quantity}"
                    )
                else:
                    difference = np.abs(before[quantity] - after[quantity]).max()
                    assert difference <= loose, f"{name}: {quantity}"
