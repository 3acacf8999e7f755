"""Commands hold BLAS to one thread, unless the user says otherwise."""

from __future__ import annotations

import argparse
import builtins
import importlib
import sys
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from qgf_ref.threads import VARIABLE

cli = importlib.import_module("qgf_ref.cli.main")
NAMED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", VARIABLE)


def blas_threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that BLAS has inside a command."""
    seen: set[int] = set()

    def run(args: argparse.Namespace) -> int:
        seen.update(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")
        return 0

    monkeypatch.setattr(cli.estimators, "run", run)
    with threadpool_limits(2, "blas"):
        assert cli.main(["estimators"]) == 0
    return seen


def test_one_thread_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    assert blas_threads(monkeypatch) == {1}


@pytest.mark.parametrize("name", NAMED)
def test_the_users_number_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in NAMED:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "2")
    assert blas_threads(monkeypatch) == {2}


def test_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    wanted = builtins.__import__

    def light(name: str, *rest: Any) -> Any:
        if name == "threadpoolctl":
            raise ModuleNotFoundError(name)
        return wanted(name, *rest)

    monkeypatch.delitem(sys.modules, "threadpoolctl")
    monkeypatch.setattr(builtins, "__import__", light)
    with cli.one_blas_thread() as limits:
        assert limits is None
