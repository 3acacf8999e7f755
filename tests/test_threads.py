"""How many threads: argument, environment, cores."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from qgf_ref import threads
from qgf_ref.errors import InputError
from qgf_ref.threads import (
    MOST,
    VARIABLE,
    Once,
    available_cores,
    in_parallel,
    results_of,
    thread_count,
)


def test_argument_then_variable_then_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, " 7 ")
    assert thread_count(3) == 3
    assert thread_count() == 7
    monkeypatch.setenv(VARIABLE, "")
    assert thread_count() == available_cores()
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


CGROUPS: dict[str, tuple[str, dict[str, str], float]] = {
    "version 2": ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    "version 2, no limit": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "version 2, a group above": (
        "0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "300000 100000"}, 3,
    ),
    "version 2, the least counts": (
        "0::/job/step", {"job/step/cpu.max": "200000 100000", "job/cpu.max": "50000 100000"}, 0.5,
    ),
    "version 2, the host's path": ("0::/../docker/abc", {"cpu.max": "400000 100000"}, 4),
    "version 1": (
        "9:memory:/m\n4:cpu,cpuacct:/job",
        {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"}, 2.5,
    ),
    "version 1, without the usual link": (
        "4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "150000",
                            "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1.5,
    ),
    "version 1, no limit": (
        "4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        math.inf,
    ),
    "nonsense": ("a line\n0::/", {"cpu.max": "many 0"}, math.inf),
    "no period": ("0::/", {"cpu.max": "100000 0"}, math.inf),
    "none": ("0::/", {}, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("case", CGROUPS)
def test_the_quota_of_a_container(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, files, cores = CGROUPS[case]
    (tmp_path / "self").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert threads._quota(tmp_path / "cgroup", tmp_path / "self") == cores
    monkeypatch.setattr(threads, "_quota", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cores() == (64 if cores == math.inf else max(1, math.ceil(cores)))


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    assert threads._quota(tmp_path, tmp_path / "nothing") == math.inf


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


def test_results_come_in_order_and_tasks_see_the_callers_context() -> None:
    context: ContextVar[str] = ContextVar("context")
    context.set("the caller's")
    for at_once in (1, 2, 5):
        tasks = [lambda n=n: (n, context.get()) for n in range(4)]
        assert results_of(tasks, at_once) == [(n, "the caller's") for n in range(4)]
    assert results_of([], 2) == []


def test_a_task_that_fails_ends_the_others() -> None:
    begun: list[int] = []

    def task(n: int) -> None:
        begun.append(n)
        if n == 1:
            raise ValueError("the second")

    with pytest.raises(ValueError, match="the second"):
        results_of([partial(task, n) for n in range(100)], 1)
    assert begun == [0, 1]


def test_tasks_that_wait_for_each_other_are_given_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two callers, taken in turn, would fill the threads: each waits for one of its own"""

    class Slow(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            future = super().submit(*arguments, **named)
            time.sleep(0.02)
            return future

    monkeypatch.setattr(threads, "_pools", {2: Slow(2)})
    met = []

    def meet() -> None:
        barrier = Barrier(3, timeout=10)
        in_parallel([barrier.wait] * 3, barrier.abort)
        met.append(1)

    callers = [Thread(target=meet) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert met == [1, 1]
