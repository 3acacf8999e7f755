"""Jobs on Dask: a cluster of this machine's, one that runs, or one that a queueing system starts.

The only module that imports `dask`. A worker needs nothing but this package and the sweep's
directory: it starts a process for each job and waits for it.
"""

from __future__ import annotations

import logging
import queue
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
from distributed.comm import CommClosedError
from distributed.core import Status
from distributed.scheduler import KilledWorker

from qgf_ref.errors import InputError, QGFError
from qgf_ref.sweeps.driver import RunnerLost
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.perform import Outcome, perform
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.workers import difference, own_facts
from qgf_ref.threads import available_cores

QUEUES = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster",
    "oar": "OARCluster", "htcondor": "HTCondorCluster", "moab": "MoabCluster",
}  # fmt: skip
"""Queueing systems, and the class of dask-jobqueue of each."""
MEMORY_EACH = 2 << 30
"""Bytes that one job is taken to need, where workers are counted."""
_BLAMED = 10
"""How often the scheduler may blame a job that hardly began before it is given up."""
_GONE = (
    "the Dask scheduler is gone; everything that was done is kept: start it again, and give the "
    "same command"
)
_CLOSED = f"{_GONE} (it closed the connection)"
_NOBODY = (
    "all Dask workers of this machine have died, and none came back: out of memory? What was done "
    "is kept: give the same command, with fewer --workers"
)
_PATIENCE = {_GONE: 20.0, _CLOSED: 0.0, _NOBODY: 60.0}
"""Seconds after which it is over."""
Performs = Callable[[Sweep, SweepJob, int], Outcome]


class DaskRunner:
    """Gives jobs to the workers of a client's cluster; see `qgf_ref.sweeps.driver.JobRunner`."""

    def __init__(
        self, sweep: Sweep, client: Any, threads: int = 1, performs: Performs = perform
    ) -> None:
        self.sweep, self.client, self.threads, self.performs = sweep, client, threads, performs
        self.ended: queue.Queue[Any] = queue.Queue()
        self.jobs: dict[str, _Given] = {}
        self.count = 0

    def submit(self, job: SweepJob, attempt: int) -> None:
        """Give a job to the scheduler; those that were given first come first."""
        self.count += 1
        begun = self.sweep.place.begun(job.name)
        begun.unlink(missing_ok=True)
        self._give(_Given(job, attempt, self.count, begun))

    def _give(self, given: _Given) -> None:
        key = f"{given.job.name}-{given.attempt}-{secrets.token_hex(4)}"
        given.future = self.client.submit(
            _perform_if_fit, own_facts(), self.performs, self.sweep, given.job, self.threads,
            given.begun, key=key, pure=False, priority=-given.place, retries=0,
        )  # fmt: skip
        self.jobs[key] = given
        given.future.add_done_callback(self.ended.put)

    def next(self) -> Outcome:
        """Wait for a job to end, however it does. Raises RunnerLost when the scheduler is gone."""
        while True:
            future = self._ended()
            given = self.jobs.pop(future.key)
            try:
                outcome: Outcome = future.result()
            except KilledWorker as error:
                worker = str(error.last_worker.address)
                if self.sweep.done(given.job):  # and the worker died before it could say so
                    outcome = Outcome(given.job.name, 0, 0.0, worker)
                elif self._to_give_again(given, error.allowed_failures):
                    self._give(given)
                    continue
                else:
                    outcome = given.killed(worker)
            except (distributed.CancelledError, CommClosedError) as error:
                raise RunnerLost(_GONE) from error
            except Exception as error:  # noqa: BLE001  of the worker: a full disk, say
                said = f"{type(error).__name__}: {error}"
                outcome = Outcome(given.job.name, 1, 0.0, "its worker", said)
            given.begun.unlink(missing_ok=True)
            return outcome

    def _ended(self) -> Any:
        """The future of a job that ended."""
        since: dict[str, float] = {}
        while True:
            try:
                return self.ended.get(timeout=1.0)
            except queue.Empty:
                lost = self._lost()
                since = {lost: since.get(lost, time.monotonic())} if lost else {}
                if lost and time.monotonic() - since[lost] > _PATIENCE[lost]:
                    raise RunnerLost(lost) from None

    def _lost(self) -> str:
        """What has gone that jobs need, in words; empty: nothing."""
        if self.client.status != "running":
            return _CLOSED if self.client.status == "closed" else _GONE
        cluster = self.client.cluster
        # workers of a queue, or of somebody's scheduler, may come later; these would be back by now
        own = isinstance(cluster, distributed.LocalCluster)
        return _NOBODY if own and not cluster.scheduler.workers else ""

    def _to_give_again(self, given: _Given, allowed: int) -> bool:
        """Whether the scheduler blames a job for deaths of workers that it was not the cause of.

        It counts a worker's death against every job that waits there (findings), not only against
        the one that ran. Ours is what began on more workers than are allowed to die.
        """
        given.blamed += 1
        return given.times_begun() <= allowed and given.blamed <= _BLAMED


@dataclass
class _Given:
    """A job that the scheduler has. begun: a line for each worker that began it."""

    job: SweepJob
    attempt: int
    place: int
    begun: Path
    blamed: int = 0
    future: Any = None

    def times_begun(self) -> int:
        with suppress(FileNotFoundError):
            return len(self.begun.read_bytes().splitlines())
        return 0

    def killed(self, worker: str) -> Outcome:
        times = self.times_begun()
        said = (
            f"{times} Dask workers died at it: out of memory? Give fewer --workers, or more memory "
            "each"
            if times
            else "Dask workers died before they began it, again and again: see their logs"
        )
        return Outcome(self.job.name, 1, 0.0, worker, said)


def local_workers(workers: int | None, threads: int) -> int:
    """How many workers: those asked for, or as many as cores and memory serve."""
    if workers is not None:
        return workers
    by_memory = int(distributed.system.MEMORY_LIMIT // MEMORY_EACH)
    return max(1, min(available_cores() // threads, by_memory))


@contextmanager
def local(workers: int, threads: int) -> Iterator[Any]:
    """A client of a cluster of this machine's own processes."""
    with (
        # a job's memory is not its worker's: it has a process of its own
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


@contextmanager
def running(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs. Raises InputError when there is none at `address`."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} ({error}): start one with dask scheduler, "
            "and workers with dask worker ADDRESS"
        ) from error
    with client:
        yield client


@contextmanager
def queued(kind: str, workers: int, threads: int, asked: Mapping[str, Any]) -> Iterator[Any]:
    """A client of workers that a queueing system starts, one job of the queue for each.

    asked  arguments of the class of dask-jobqueue (queue, account, walltime, memory, …)
    Raises InputError on arguments that it does not have, and where this machine has no such queue.
    """
    cluster_class = getattr(_jobqueue(), QUEUES[kind])
    submit = cluster_class.job_cls.submit_command.split()[0]
    if shutil.which(submit) is None:
        raise InputError(
            f"--{kind} starts workers by {submit}, which is not on this machine's PATH: begin the "
            f"sweep where it is (a login node), or without --{kind}"
        )
    usual = {"cores": threads, "processes": 1, "memory": "4GB"}
    try:
        cluster = cluster_class(**{**usual, **asked})
    except (TypeError, ValueError) as error:
        raise InputError(f"cluster: {QUEUES[kind]} of dask-jobqueue says: {error}") from error
    try:
        with cluster, distributed.Client(cluster) as client:
            cluster.scale(jobs=workers)
            yield client
    except AssertionError as error:
        # Dask's, when it closes workers that the queue has never taken; it hides what we said, and
        # leaves nothing that could still be closed
        cluster.status = Status.closed
        ours: BaseException | None = error
        while ours is not None and not isinstance(ours, QGFError):
            ours = ours.__context__
        raise error if ours is None else ours from None


def _jobqueue() -> Any:
    """dask_jobqueue, whose import sets another handler of Ctrl-C (findings): ours is put back."""
    own = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, own)
    return dask_jobqueue


def _perform_if_fit(
    asked: Mapping[str, str], performs: Performs, sweep: Sweep, job: SweepJob, threads: int,
    begun: Path,
) -> Outcome:  # fmt: skip
    """On a worker: do the job, unless this worker, which may have come later, is another."""
    if other := difference(own_facts(), asked):
        said = f"a worker that came later is not as the process that asks: {other}"
        return Outcome(job.name, 1, 0.0, socket.gethostname(), said)
    with begun.open("ab") as lines:
        lines.write(f"{socket.gethostname()}\n".encode())
    return performs(sweep, job, threads)
