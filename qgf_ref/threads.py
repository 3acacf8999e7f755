"""How many threads compiled code may use: one rule for samplers, training and benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Generic, TypeVar

from qgf_ref.errors import InputError

R = TypeVar("R")

VARIABLE = "QGF_REF_THREADS"
"""Environment variable with the number of threads, where no argument gives one."""
MOST = 1024


def thread_count(threads: int | None = None) -> int:
    """`threads` if given, else the variable QGF_REF_THREADS, else the cores of this process.

    The cores are those that the process may run on, not all that the machine has. Raises
    InputError unless the number is an integer from 1 to 1024.
    """
    if threads is not None:
        return _checked(threads, "threads")
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        try:
            return _checked(int(text), VARIABLE)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{VARIABLE} must be a whole number from 1 to {MOST}, got {text!r}: correct or "
                "unset it"
            ) from None
    return available_cores()


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no affinity to ask for


def _checked(threads: object, name: str) -> int:
    whole = hasattr(threads, "__index__") and not isinstance(threads, bool)
    if not whole or not 1 <= int(threads) <= MOST:  # type: ignore[call-overload]
        raise InputError(f"{name} must be a whole number from 1 to {MOST}, got {threads!r}")
    return int(threads)  # type: ignore[call-overload]


def in_parallel(tasks: Sequence[Callable[[], object]], stop: Callable[[], object] = list) -> None:
    """Run all tasks, each in a thread, the first in this one; return when all are done.

    stop  called by a task that fails (Ctrl-C comes to the first), so that the others end early
    The tasks must leave Python's lock alone for most of their time (compiled code does). Raises
    what the first failing task raised.
    """
    if len(tasks) == 1:
        tasks[0]()
        return

    def run(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException:
            # here and not below: the first task may be waiting for this one
            stop()
            raise

    others: list[Future[None]] = []
    try:
        others.extend(_pool(len(tasks) - 1).submit(run, task) for task in tasks[1:])
        run(tasks[0])
        for other in others:
            other.result()
    except BaseException:
        stop()
        wait(others)
        raise


class Once(Generic[R]):
    """Work that whichever thread comes first does, and whose result all get."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._lock = Lock()
        self._results: list[R] = []

    def __call__(self) -> R:
        """The result; waits where another thread is at it."""
        with self._lock:
            if not self._results:
                self._results.append(self._work())
            return self._results[0]


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="qgf_ref")
    return _pools[threads]


if hasattr(os, "register_at_fork"):
    # a forked child has none of the threads
    os.register_at_fork(after_in_child=_pools.clear)
