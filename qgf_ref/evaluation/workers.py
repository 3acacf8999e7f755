"""Groups of episodes spread over processes: any number of them gives the same records."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from threadpoolctl import threadpool_limits

from qgf_ref.errors import QGFError
from qgf_ref.evaluation.records import Unit
from qgf_ref.evaluation.rollouts import Played, Policy, Simulator, TaskLike
from qgf_ref.interop.checkpoint import Checkpoint

_PATIENCE = 5.0
"""Seconds that a worker has to go of its own accord before it is killed."""


class WorkerError(QGFError):
    """A worker process died or failed; the message says on which group, and how."""


@dataclass(frozen=True)
class Stage:
    """What a worker plays with: the checkpoints by number, the task, environments per group."""

    checkpoints: tuple[Checkpoint, ...]
    task: TaskLike
    envs: int

    def play(self, simulator: Simulator, unit: Unit) -> Played:
        """The group's episodes."""
        checkpoint = self.checkpoints[unit.checkpoint]
        return simulator.play(Policy.of(checkpoint, unit.method, unit.weight), unit.seeds)


class LocalWorkers:
    """All groups in this process, one after the other."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._simulator = Simulator(stage.task, stage.envs)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._simulator.close()

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Played]]:
        """Each group with its episodes, in order."""
        for unit in units:
            with threadpool_limits(limits=1):
                played = self._stage.play(self._simulator, unit)
            yield unit, played


class ProcessWorkers:
    """`count` spawned processes. Leaving the context ends them, whatever they are doing."""

    def __init__(self, stage: Stage, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process
        self._stage: Stage | None = stage

    def __enter__(self) -> ProcessWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        # not asked to stop but ended: after Ctrl-C a group may have many seconds left to run
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = {}

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Played]]:
        """Each group with its episodes, as they finish.

        Raises WorkerError when a process dies, and whatever error of this package a worker met.
        """
        waiting = deque(units)
        busy: dict[Connection, Unit] = {}
        if waiting:
            self._set_up(waiting[0])
        for connection in self._processes:
            self._assign(connection, waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                unit = busy.pop(ready)
                try:
                    answer = ready.recv()
                except (EOFError, OSError):
                    raise self._death(ready, unit) from None
                if isinstance(answer, Exception):
                    raise answer
                self._assign(ready, waiting, busy)
                yield unit, answer

    def _set_up(self, first: Unit) -> None:
        """Send the stage, once. Not as an argument of the processes: Process.start waits forever
        for one that dies before it has read a large argument.
        """
        if self._stage is None:
            return
        for connection in self._processes:
            try:
                connection.send(self._stage)
            except OSError:
                raise self._death(connection, first) from None
        self._stage = None

    def _assign(
        self, connection: Connection, waiting: deque[Unit], busy: dict[Connection, Unit]
    ) -> None:
        if not waiting:
            return
        unit = waiting.popleft()
        try:
            connection.send(unit)
        except OSError:
            raise self._death(connection, unit) from None
        busy[connection] = unit

    def _death(self, connection: Connection, unit: Unit) -> WorkerError:
        process = self._processes[connection]
        process.join(_PATIENCE)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerError(
            f"a worker process died ({how}) on {unit.key}: out of memory? Finished groups are "
            "kept; run again to go on, with fewer --workers or --workers 1 to see the cause. (In a "
            "script of yours, start the evaluation under `if __name__ == '__main__':`.)"
        )


def workers(stage: Stage, count: int) -> LocalWorkers | ProcessWorkers:
    """`count` workers; one is this process itself."""
    return LocalWorkers(stage) if count == 1 else ProcessWorkers(stage, count)


def _work(connection: Connection) -> None:
    """What a worker process does: play the groups it is sent until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threadpool_limits(limits=1)
    try:
        stage = connection.recv()
    except (EOFError, OSError):
        return
    with Simulator(stage.task, stage.envs) as simulator:
        while True:
            try:
                unit = connection.recv()
            except (EOFError, OSError):
                return
            answer: Played | QGFError
            try:
                answer = stage.play(simulator, unit)
            except QGFError as error:
                answer = error
            except Exception as error:  # noqa: BLE001  (the parent reports it)
                frame = traceback.extract_tb(error.__traceback__)[-1]
                answer = WorkerError(
                    f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno}) on "
                    f"{unit.key}; --workers 1 shows the whole traceback"
                )
            try:
                connection.send(answer)
            except OSError:
                return
