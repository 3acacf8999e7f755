"""How many threads compiled code may use: one rule for samplers, training and benchmarks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from qgf_ref.errors import InputError

R = TypeVar("R")

VARIABLE = "QGF_REF_THREADS"
"""Environment variable with the number of threads, where no argument gives one."""
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
MOST = 1024


def thread_count(threads: int | None = None) -> int:
    """`threads` if given, else the variable QGF_REF_THREADS, else `available_cores`.

    Raises
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
    """Cores that this process may use at once: the least of the machine's, its affinity, its quota.

    A container's quota (Linux cgroups, both versions) is processor time per time: of more threads
    than that, some would always wait.
    """
    # macOS and Windows have no affinity to ask for
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return own if quota == math.inf else max(1, min(own, math.ceil(quota)))


@cache
def _quota(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of processor time that the cgroups allow, infinite where they set no limit.

    A process's limit is the least of its group's and of all groups above it. Read once: the files
    take as long as a small network's sampler.
    """
    try:
        text = process.read_text(encoding="utf-8", errors="replace")
        lines = [line.split(":", 2) for line in text.splitlines()]
    except OSError:
        return math.inf
    cores = math.inf
    for _, controllers, path in (line for line in lines if len(line) == 3):
        version_1 = "cpu" in controllers.split(",")
        if controllers and not version_1:
            continue
        for group in (Path(path), *Path(path).parents):  # in a container, `path` may be the host's
            mount = root / "cpu" if (root / "cpu").exists() else root / controllers
            place = (mount if version_1 else root) / str(group).lstrip("/")
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version_1 else ("cpu.max",)
            try:
                quota, period = " ".join((place / n).read_text() for n in names).split()
                if int(quota) > 0 and int(period) > 0:
                    cores = min(cores, int(quota) / int(period))
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return cores


def _checked(threads: object, name: str) -> int:
    whole = hasattr(threads, "__index__") and not isinstance(threads, bool)
    if not whole or not 1 <= int(threads) <= MOST:  # type: ignore[call-overload]
        raise InputError(f"{name} must be a whole number from 1 to {MOST}, got {threads!r}")
    return int(threads)  # type: ignore[call-overload]


def limited(threads: int | None, api: str | None = None) -> AbstractContextManager[Any]:
    """BLAS and OpenMP (api "blas": BLAS alone) on at most `threads` threads, from now to the exit.

    Without threadpoolctl, which a light installation lacks, they go on as they are.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(threads, user_api=api)
    return limits


@contextmanager
def one_blas_thread(*, later: bool = False) -> Iterator[None]:
    """BLAS on one thread, or on QGF_REF_THREADS, unless BLAS's own variables give a number.

    A context and a decorator, for whole jobs. On matrices as small as these more threads do not
    help, and where other processes, or a quota, want the cores, they spin. What has threads of its
    own (training, bench) sets them itself.

    later  also of libraries that are loaded, and processes that are started, inside
    """
    own = bool(os.environ.get(VARIABLE, "").strip())
    if not own and any(os.environ.get(name) for name in BLAS_VARIABLES):
        yield
        return
    threads = thread_count() if own else 1
    free = [name for name in BLAS_VARIABLES if later and not os.environ.get(name)]
    os.environ.update(dict.fromkeys(free, str(threads)))
    try:
        with limited(threads, "blas"):
            yield
    finally:
        for name in free:
            os.environ.pop(name, None)


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
        with _locks["submit"]:
            others.extend(_pool(len(tasks) - 1).submit(run, task) for task in tasks[1:])
        run(tasks[0])
        for other in others:
            other.result()
    except BaseException:
        stop()
        wait(others)
        raise


def results_of(tasks: Sequence[Callable[[], R]], threads: int) -> list[R]:
    """What the tasks return, in their order; at most `threads` of them run at once.

    Each starts when all before it have started, and sees this thread's context variables. None may
    call `in_parallel` or `results_of` of its own: it would wait for the threads that it is in.
    Raises as `in_parallel`.
    """
    results: dict[int, R] = {}
    numbers = iter(range(len(tasks)))

    def work() -> None:
        for n in numbers:
            results[n] = tasks[n]()

    workers = [partial(copy_context().run, work) for _ in range(min(threads, len(tasks)))]
    in_parallel(workers or [work], lambda: list(numbers))
    return [results[n] for n in range(len(tasks))]


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
_locks = {"submit": Lock()}
"""Tasks that wait for each other are given together: those of two callers in turn could fill the
threads, each waiting for one that has none."""


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="qgf_ref")
    return _pools[threads]


def _forget_threads() -> None:
    """A forked child has none of them; one may have held the lock at that moment."""
    _pools.clear()
    _locks.update(submit=Lock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
