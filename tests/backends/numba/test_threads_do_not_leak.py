"""A compiled sample leaves the process as it found it: BLAS, Numba, environment, affinity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numba
import pytest
import scipy.linalg  # noqa: F401  (Numba loads its BLAS with the first call)
from threadpoolctl import threadpool_info, threadpool_limits

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.backends.numba import sampler
from qgf_ref.sampling import sample
from qgf_ref.threads import VARIABLE
from tests.conftest import states


def settings() -> dict[str, Any]:
    """Every setting of threads that a sampler might touch."""
    found: dict[str, Any] = {
        "numba": numba.get_num_threads(),  # first: asking makes Numba load an OpenMP
        "pools": {info["filepath"]: info["num_threads"] for info in threadpool_info()},
        "environment": dict(os.environ),
    }
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = os.sched_getaffinity(0)
    return found


def draw(checkpoint: Checkpoint, rows: int, estimator: str, threads: int | None) -> None:
    obs, noise = states(checkpoint, rows)
    sample(
        checkpoint.flow, obs, estimator=estimator, weight=0.1, noise=noise, backend="numba",
        threads=threads,
    )  # fmt: skip


@pytest.mark.parametrize("estimator", ["qgf", "qgf_jacobian_ortho"])
def test_nothing_leaks(
    checkpoint: Checkpoint, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "TEAM_BYTES", 0)
    monkeypatch.setenv(VARIABLE, "2")
    with threadpool_limits(2, user_api="blas"):  # the tests have 1, as a leak would
        before = settings()
        assert 2 in before["pools"].values()
        for threads in (1, 2, 3, None):
            for rows in (1, 30, 70):  # a team up to 32 rows, blocks beyond
                draw(checkpoint, rows, estimator, threads)
                assert settings() == before
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        allowed = {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks.iterdir()}
        assert allowed == {frozenset(before["affinity"])}


def test_a_sample_that_fails_leaks_nothing(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "TEAM_BYTES", 0)
    before = settings()

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sampler, "run_block", stopped)
        for rows in (30, 70):
            with pytest.raises(KeyboardInterrupt):
                draw(checkpoint, rows, "qgf", 2)
    assert settings() == before
    draw(checkpoint, 70, "qgf", 2)
