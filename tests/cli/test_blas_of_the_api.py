"""BLAS has one thread in every long job, from Python as from the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import compare
from qgf_ref.testing import check_critic, check_gradient, check_sampler, check_velocity
from qgf_ref.threads import BLAS_VARIABLES, VARIABLE
from tests.conftest import small_checkpoint


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS on two threads, by nobody's wish."""
    for name in (*BLAS_VARIABLES, VARIABLE):
        monkeypatch.delenv(name, raising=False)


def blas_threads() -> set[int]:
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def _velocity(ck: Checkpoint, seen: set[int]) -> object:
    def fn(obs: Array, action: Array, time: Any) -> Array:
        seen.update(blas_threads())
        raise RuntimeError("enough")

    return check_velocity(fn, ck)


def _critic(ck: Checkpoint, seen: set[int]) -> object:
    def fn(obs: Array, action: Array) -> Array:
        seen.update(blas_threads())
        raise RuntimeError("enough")

    return (check_critic if ck.dtype == "float64" else check_gradient)(fn, ck)


def _sampler(ck: Checkpoint, seen: set[int]) -> object:
    def fn(obs: Array, noise: Array, weight: float) -> Array:
        seen.update(blas_threads())
        raise RuntimeError("enough")

    return check_sampler(fn, ck)


@pytest.mark.parametrize("job", [_velocity, _critic, _sampler])
@pytest.mark.parametrize(("variable", "threads"), [("", 1), (VARIABLE, 2)])
@pytest.mark.usefixtures("free")
def test_the_api_holds_blas_as_commands_do(
    job: Callable[[Checkpoint, set[int]], object], variable: str, threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if variable:
        monkeypatch.setenv(variable, str(threads))
    seen: set[int] = set()
    with threadpool_limits(3 - threads, "blas"):
        with pytest.raises(Exception, match="enough"):
            job(small_checkpoint(), seen)
        assert blas_threads() == {3 - threads}, "the caller's number is back"
    assert seen == {threads}


def test_every_long_job_of_the_api_is_held() -> None:
    from qgf_ref import testing
    from qgf_ref.audit.explain import explain
    from qgf_ref.studies.base import run_study

    named = [getattr(testing, name) for name in testing.__all__ if name.startswith("check_")]
    for job in (*named, compare, explain, run_study):
        assert hasattr(job, "__wrapped__"), job


SCRIPT = """
from qgf_ref.cli.main import main
print("exit code", main([*"collect pointmaze-medium-navigate-v0 --episode-steps 5".split(),
                         "--episodes", "1", "--workers", "2", "--out", PLACE]))
"""


def test_workers_do_not_start_the_script_all_over_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"PLACE = {str(tmp_path)!r}\n{SCRIPT}")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "exit code 0", done.stderr
    assert done.stdout.count("exit code") == 1
