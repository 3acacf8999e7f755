"""Worker processes that simulate episodes and keep them on disk."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from qgf_ref.data.collection.episode import collect_episode
from qgf_ref.data.collection.parts import write_part
from qgf_ref.data.collection.recipe import Recipe
from qgf_ref.data.tasks import quiet
from qgf_ref.errors import QGFError

Job = tuple[str, int]
"""Split and index of an episode."""
PATIENCE = 5.0
"""Seconds that a worker has to end after SIGTERM before it is killed."""


class WorkerError(QGFError):
    """A worker process died; the message says where, and that the finished episodes are kept."""


@dataclass(frozen=True)
class Finished:
    """An episode that is on disk: its steps, attempts, and the seconds it took."""

    split: str
    index: int
    steps: int
    attempts: int
    seconds: float


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job


def run_workers(
    jobs: Iterable[Job], recipe: Recipe, seed: int, directory: Path, count: int
) -> Generator[Finished, None, None]:
    """Collect `jobs` in `count` processes, each into its part file in `directory`; yields in the
    order of completion. Closing the iterator, or an exception in it, stops the processes.

    Raises WorkerError when a process dies, and passes on the QGFError of one.
    """
    queue = iter(jobs)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for job in (job for _, job in zip(range(count), queue)):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, recipe, seed, directory), daemon=True
            )
            _start_deaf(process)
            theirs.close()
            workers.append(_Worker(process, ours, job))
            _send(workers[-1], job)
        busy = list(workers)
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                yield _receive(worker)
                following = next(queue, None)
                _send(worker, following)
                if following is None:
                    busy.remove(worker)
                else:
                    worker.job = following
        for worker in workers:
            worker.process.join()
    finally:
        _stop(workers)


def work(connection: Connection, recipe: Recipe, seed: int, directory: Path) -> None:
    """The body of a worker: episodes as they come, until None comes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    env = recipe.make_env()
    with threadpool_limits(1):
        try:
            while (job := connection.recv()) is not None:
                connection.send(_collect(env, recipe, seed, directory, job))
        except (EOFError, ConnectionError):
            return
        finally:
            env.close()


def _collect(env: Any, recipe: Recipe, seed: int, directory: Path, job: Job) -> Finished | QGFError:
    start = time.perf_counter()
    try:
        episode, attempts = collect_episode(env, recipe, seed, *job)
        write_part(directory, *job, episode)
    except QGFError as error:
        return error
    seconds = time.perf_counter() - start
    return Finished(*job, steps=len(episode["terminals"]), attempts=attempts, seconds=seconds)


def _send(worker: _Worker, job: Job | None) -> None:
    # a worker that has died in the meantime is noticed when its answer is read
    with suppress(ConnectionError):
        worker.connection.send(job)


def _receive(worker: _Worker) -> Finished:
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionError) as error:
        worker.process.join(PATIENCE)
        code = worker.process.exitcode
        how = f"was killed by signal {-code}" if code and code < 0 else f"died, exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        raise WorkerError(
            f"a worker {how}{hint} during {worker.job[0]} episode {worker.job[1]}; its own message "
            "is above, if it had one. The finished episodes are kept: the same command goes on"
        ) from error
    if isinstance(message, QGFError):
        raise message
    if not isinstance(message, Finished):
        raise WorkerError(f"a worker sent {type(message).__name__}, expected Finished")
    return message


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


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
        worker.connection.close()
