"""Jobs spread over processes: the number of processes decides nothing but the time, and one that
dies gives an error, never a hang. And what a process takes of the memory.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from qgf_ref.errors import QGFError
from qgf_ref.threads import BLAS_VARIABLES, limited

Job = TypeVar("Job")
Result = TypeVar("Result")
Tool = Callable[[], AbstractContextManager[Callable[[Job], Result]]]
"""Makes what a worker needs (an environment, say) and gives the function that does a job. With
several processes, tool, jobs and results must be picklable.
"""

_STATUS = Path("/proc/self/status")
_PATIENCE = 5.0
"""Seconds that a process has to go of its own accord before it is killed."""


class WorkerError(QGFError):
    """A worker process died or failed; the message says on which job, and how."""


class Crew(Generic[Job, Result]):
    """`count` spawned processes, or with count 1 this one. A context; leaving it ends them.

    kept  what to tell the user of the jobs that are done when one fails
    Matrix products use one thread in each process.
    """

    def __init__(self, tool: Tool[Job, Result], count: int, kept: str) -> None:
        self._tool, self._count, self._kept = tool, count, kept
        self._stack = ExitStack()
        self._work: Callable[[Job], Result] | None = None
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Crew[Job, Result]:
        if self._count == 1:
            self._work = self._stack.enter_context(self._tool())
            return self
        context = multiprocessing.get_context("spawn")
        self._stack.callback(self._end)
        # a worker only needs the script that was started for what is defined in it; else one that
        # has no `if __name__ == "__main__"` would start it all over again
        needed = b"__main__" in pickle.dumps(self._tool)
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs,), daemon=True)
            with nullcontext() if needed else _without_script():
                _start_deaf(process)
            theirs.close()
            self._processes[ours] = process
        for connection in self._processes:
            # not as an argument of the process: Process.start waits forever for one that dies
            # before it has read a large argument
            self._send(connection, self._tool, "before its first job")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, as they finish; jobs are taken as they are needed.

        Raises WorkerError when a process dies, or fails with an error that is not this package's,
        which is passed on as it is. With one process, every error is.
        """
        if self._work is not None:
            for job in jobs:
                with limited(1):
                    result = self._work(job)
                yield job, result
            return
        waiting = iter(jobs)
        busy: dict[Connection, Job] = {}

        def assign(connection: Connection) -> None:
            for job in waiting:
                self._send(connection, job, str(job))
                busy[connection] = job
                return

        for connection in self._processes:
            assign(connection)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                job = busy.pop(ready)
                try:
                    answer: Any = ready.recv()
                except (EOFError, OSError):
                    raise self._death(ready, str(job)) from None
                if isinstance(answer, Exception):
                    raise answer
                assign(ready)
                yield job, answer

    def _send(self, connection: Connection, message: object, job: str) -> None:
        try:
            connection.send(message)
        except OSError:
            raise self._death(connection, job) from None

    def _death(self, connection: Connection, job: str) -> WorkerError:
        process = self._processes[connection]
        process.join(_PATIENCE)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        # SIGKILL, which Windows has no name for
        hint = ": out of memory?" if code == -9 else "; its own message is above"
        return WorkerError(
            f"a worker process died ({how}) on {job}{hint} {self._kept} With --workers 1 the cause "
            "shows. (In a script of yours, start under `if __name__ == '__main__':`.)"
        )

    def _end(self) -> None:
        # not asked to stop but ended: after Ctrl-C a job may have many seconds left to run
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = {}


def _worker(connection: Connection) -> None:
    """What a process does: jobs as they come, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limited(1)
    for name in BLAS_VARIABLES:  # for libraries that the tool brings
        os.environ.setdefault(name, "1")
    try:
        with connection.recv()() as work:
            while True:
                job = connection.recv()
                connection.send(_answer(work, job))
    except (EOFError, OSError):
        return


def _answer(work: Callable[[Any], Any], job: Any) -> Any:
    try:
        return work(job)
    except QGFError as error:
        return error
    except Exception as error:  # noqa: BLE001  (the parent reports it)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return WorkerError(
            f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno}) on {job}; "
            "--workers 1 shows the whole traceback"
        )


@contextmanager
def _without_script() -> Iterator[None]:
    """Processes that are started meanwhile do not import the script that runs."""
    names = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {
        name: names.pop(name) for name in ("__file__", "__spec__") if name in names
    }
    names["__spec__"] = None
    try:
        yield
    finally:
        names.update(kept)


def _start_deaf(process: BaseProcess) -> None:
    """Start `process` with SIGINT ignored from its first instruction: Ctrl-C in a terminal goes to
    all processes, and only the parent shall answer it.
    """
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, previous)


def resident(what: Literal["VmRSS", "VmHWM"] = "VmHWM") -> int | None:
    """Bytes of this process in memory, now (VmRSS) or at most so far (VmHWM, the peak).

    None where there is no /proc.
    """
    try:
        match = re.search(rf"^{what}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def peak_bytes() -> int | None:
    """The most memory that this process has had; None on Windows.

    By /proc where it is: getrusage's number is never less than that of the process that started
    this one, which a program run by a larger one would be told to have taken.
    """
    peak = resident()
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    # in bytes on macOS, in KiB elsewhere
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
