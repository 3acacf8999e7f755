"""How many threads: argument, environment, cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from qgf_ref.errors import InputError
from qgf_ref.threads import (
    MOST,
    VARIABLE,
    Once,
    available_cores,
    in_parallel,
    thread_count,
)


def test_argument_then_variable_then_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, " 7 ")
    assert thread_count(3) == 3
    assert thread_count() == 7
    monkeypatch.setenv(VARIABLE, "")
    assert thread_count() == available_cores()
    if hasattr(os, "sched_getaffinity"):
        assert available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", str(MOST + 1), "9" * 5000])
def test_nonsense_in_the_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match=f"{VARIABLE} must be a whole number from 1 to {MOST}"):
        thread_count()


@pytest.mark.parametrize("threads", [0, -2, True, "3", 2.0, MOST + 1])
def test_nonsense_as_the_argument(threads: object) -> None:
    with pytest.raises(InputError, match="threads must be a whole number"):
        thread_count(threads)  # type: ignore[arg-type]


def test_numba_is_not_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, qgf_ref, qgf_ref.training.run, qgf_ref.cli.main; from qgf_ref.backends.engine "
        "import Engine; Engine.of('numba', 2); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_once_is_done_once_whoever_asks() -> None:
    calls, results = [], []

    def work() -> int:
        calls.append(1)
        time.sleep(0.05)  # long enough for the others to arrive
        return 7

    once = Once(work)
    in_parallel([lambda: results.append(once())] * 3)
    assert results == [7, 7, 7] and len(calls) == 1
