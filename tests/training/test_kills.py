"""Real processes killed by SIGKILL at random moments, and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import same_run


def killed_at_random_moments(data: Path, tmp_path: Path, kills: int, updates: int) -> None:
    """Real processes, real SIGKILL. The moments are drawn from the length of a whole run."""
    settings = [
        "--data", str(data), "--updates", str(updates), "--batch", "16", "--hidden", "8", "8",
        "--log-every", "50", "--checkpoint-every", "40",
    ]  # fmt: skip
    command = [sys.executable, "-m", "qgf_ref", "train"]
    task = "pointmaze-medium-navigate-singletask-task1-v0"

    def launch(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    begun = time.perf_counter()
    with launch(task, *settings, "--out", str(whole)) as process:
        assert process.wait() == 0
    seconds = time.perf_counter() - begun
    rng = np.random.default_rng(0)
    for _ in range(kills):
        resumed = ["--resume", str(broken)] if (broken / "train.json").exists() else None
        process = launch(*(resumed or [task, *settings, "--out", str(broken)]))
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        with process:
            _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    with launch("--resume", str(broken)) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    same_run(broken, whole)


@pytest.mark.slow
def test_killed_twice_at_random_moments(data: Path, tmp_path: Path) -> None:
    killed_at_random_moments(data, tmp_path, kills=2, updates=300)


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(data: Path, tmp_path: Path) -> None:
    killed_at_random_moments(data, tmp_path, kills=10, updates=1000)
