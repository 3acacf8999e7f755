"""A cache, a lock, a home, a variable, a reader never costs the result: other people's machines."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref import files
from qgf_ref.cli.main import main
from qgf_ref.data import datasets
from qgf_ref.errors import InputError
from qgf_ref.files import sole_use, user_path
from qgf_ref.interop.load import load
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import read_trace
from tests.conftest import small_checkpoint, states

TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def python(text: str, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    environment = {**os.environ, **changes}
    command = [sys.executable, "-c", text, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_named_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with sole_use(tmp_path / ".lock", "busy"):
        pass
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path} cannot be locked ({os.strerror(number)}): going on without")


def test_a_system_without_locks_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    with sole_use(tmp_path / ".lock", "busy"):
        pass
    assert "cannot be locked (this system has no flock)" in capsys.readouterr().err


def test_a_lock_that_is_held_still_counts(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with sole_use(path, ""), pytest.raises(InputError, match="busy"), sole_use(path, "busy"):
        pass


# homes and paths


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's arbitrary user: no HOME, no line in passwd."""

    def nobody(uid: object) -> Any:
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.delenv("HOME", raising=False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"train {TASK} --out out", "give --data a file or a directory"),
        (f"train {TASK} --out out --data ~/data", "no home directory is known for the ~ of ~/data"),
        ("explain --checkpoint ~/run", "no home directory is known for the ~ of ~/run"),
        ("collect pointmaze-medium-navigate-v0 --episodes 1", "no home directory is known"),
        ("audit --out ~/x", "no home directory is known for the ~ of ~/x: give a path without it"),
    ],
)
@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.usefixtures("homeless")
def test_a_name_that_begins_with_a_tilde_is_a_name() -> None:
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with a checkpoint and an input; another directory is the current one."""
    place, work = tmp_path / "home", tmp_path / "work"
    place.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(work)
    ck = small_checkpoint()
    save_checkpoint(ck, "~/model.safetensors")
    obs, noise = states(ck, 5)
    np.savez(place / "in.npz", obs=obs, noise=noise)
    return place


@pytest.mark.parametrize(
    "line",
    [
        "trace --checkpoint=~/model.safetensors --input=~/in.npz --weight 0.3 --out=~/out.npz",
        "convert ~/model.safetensors ~/copy.npz",
        "convert ~/model.safetensors ~/directory",
        "explain --brief --checkpoint=~/model.safetensors --obs=~/in.npz",
        "audit --checkpoint=~/model.safetensors --obs=~/in.npz --estimators qgf --out=~/report",
        f"train {TASK} --data=~/none --out=~/run",
    ],
)
def test_a_tilde_that_no_shell_has_expanded(line: str, home: Path) -> None:
    assert main(line.split()) == (2 if line.startswith("train") else 0)
    assert not list(Path.cwd().iterdir())  # nothing is called ~ here


def test_paths_of_the_api_are_expanded_too(home: Path) -> None:
    ck = load("~/model.safetensors")
    line = "trace --checkpoint ~/model.safetensors --input ~/in.npz --weight 0 --out ~/t.npz"
    assert main(line.split()) == 0
    assert read_trace("~/t.npz").action.shape == (5, ck.flat_action_dim)
    with pytest.raises(InputError, match=str(home / "nothing")):
        datasets.find_dataset("cube-single-play-v0", "~/nothing")
    code = "from qgf_ref.kernels.cache import directory; print(directory())"
    assert str(home / "cache") in python(code, QGF_REF_CACHE_DIR="~/cache").stdout
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "line",
    ["explain --checkpoint hf://org/name", "audit --out s3://bucket/x", "study --data gs://x"],
)
def test_an_address_is_no_path(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    address = line.split()[-1]
    said = capsys.readouterr().err
    assert f"{address} is an address" in said
    assert ("hf download org/name" in said) == address.startswith("hf")


# systems

WINDOWS = """
import os, signal, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "sched_setaffinity", "register_at_fork", "getloadavg", "fork"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGPIPE", "SIGUSR1"):
    if hasattr(signal, name):
        delattr(signal, name)
from qgf_ref import processes
from qgf_ref.cli.main import main
from qgf_ref.processes import Crew
processes._STATUS = processes.Path("there is no proc")
class Dead:
    exitcode = 1
    def join(self, _):
        pass
crew = Crew(None, 2, "Kept.")
crew._processes = {"pipe": Dead()}
print(crew._death("pipe", "a job"))
from tests.data.synthetic import TASK, write_dataset
from pathlib import Path
place = Path(sys.argv[1])
data = str(write_dataset(place))
small = ["--hidden", "7", "--batch", "8", "--horizon-length", "2", "--updates", "2", "--backend"]
words = ["train", TASK, "--data", data, "--out", str(place / "run"), *small, "numpy"]
sys.exit(main(words))
"""


def test_windows_as_far_as_it_can_be_simulated(tmp_path: Path) -> None:
    done = python(WINDOWS, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "a worker process died (exit code 1) on a job; its own message is above Kept." in (
        done.stdout
    )
    assert (
        "2 updates; memory: data" in done.stdout and "process" not in done.stdout.split("memory")[1]
    )
    assert "cannot be locked (this system has no flock)" in done.stderr


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
def test_files_are_as_private_as_the_user_wants(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        files.write_atomically(tmp_path / "f", b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode
