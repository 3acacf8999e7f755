"""Jobs on Dask: a cluster of this machine's, one that runs, or one that a queueing system starts.

The only module that imports `dask`. A worker needs nothing but this package and the sweep's
directory: it starts a process for each job and waits for it.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import queue
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.comm import CommClosedError
from distributed.core import Status
from distributed.scheduler import KilledWorker

from qgf_ref.errors import InputError, QGFError
from qgf_ref.provenance import provenance
from qgf_ref.sweeps.driver import RunnerLost
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.perform import Outcome, perform
from qgf_ref.sweeps.place import SweepPlace
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.threads import available_cores

QUEUES = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster",
    "oar": "OARCluster", "htcondor": "HTCondorCluster", "moab": "MoabCluster",
}  # fmt: skip
"""Queueing systems, and the class of dask-jobqueue of each."""
MEMORY_EACH = 2 << 30
"""Bytes that one job is taken to need, where workers are counted."""
_LOST = 20.0
"""Seconds without the scheduler after which it is gone."""
_FIRST_WORKER = 60.0
_GONE = (
    "the Dask scheduler is gone; everything that was done is kept: start it again, and give the "
    "same command"
)
Performs = Callable[[Sweep, SweepJob, int], Outcome]


class DaskRunner:
    """Gives jobs to the workers of a client's cluster; see `qgf_ref.sweeps.driver.JobRunner`."""

    def __init__(
        self, sweep: Sweep, client: Any, threads: int = 1, performs: Performs = perform
    ) -> None:
        self.sweep, self.client, self.threads, self.performs = sweep, client, threads, performs
        self.ended: queue.Queue[Any] = queue.Queue()
        self.jobs: dict[str, tuple[SweepJob, Any]] = {}
        self.count = 0

    def submit(self, job: SweepJob, attempt: int) -> None:
        """Give a job to the scheduler; those that were given first come first."""
        self.count += 1
        key = f"{job.name}-{attempt}-{secrets.token_hex(4)}"
        future = self.client.submit(
            _perform_if_fit, own_facts(), self.performs, self.sweep, job, self.threads, key=key,
            pure=False, priority=-self.count, retries=0,
        )  # fmt: skip
        self.jobs[key] = (job, future)
        future.add_done_callback(self.ended.put)

    def next(self) -> Outcome:
        """Wait for a job to end, however it does. Raises RunnerLost when the scheduler is gone."""
        lost_since: float | None = None
        while True:
            try:
                future = self.ended.get(timeout=1.0)
                break
            except queue.Empty:
                if self.client.status == "running":
                    lost_since = None
                    continue
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _LOST or self.client.status == "closed":
                    raise RunnerLost(_GONE) from None
        job, _ = self.jobs.pop(future.key)
        try:
            outcome: Outcome = future.result()
        except KilledWorker as error:
            said = (
                f"{error.allowed_failures + 1} Dask workers died at it: out of memory? Give fewer "
                "--workers, or more memory each"
            )
            return Outcome(job.name, 1, 0.0, str(error.last_worker.address), said)
        except (distributed.CancelledError, CommClosedError) as error:
            raise RunnerLost(_GONE) from error
        except Exception as error:  # noqa: BLE001  of the worker: a full disk, say
            return Outcome(job.name, 1, 0.0, "its worker", f"{type(error).__name__}: {error}")
        return outcome


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


@cache
def code_digest() -> str:
    """SHA-256 of this package's sources, shortened: two checkouts of one version may differ."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def own_facts() -> dict[str, str]:
    """What must be the same on every worker."""
    versions = provenance()["versions"]
    names = ("qgf_ref", "numpy", "scipy", "numba", "safetensors", "ogbench", "mujoco", "gymnasium")
    about = {"python": platform.python_version(), **{n: versions[n] for n in names}}
    return about | {"source of qgf_ref": code_digest(), "dask": dask.__version__}


def facts(token: Path, expected: str) -> dict[str, str]:
    """The same, and whether this worker reads what was written to `token`."""
    seen = ""
    with suppress(OSError):
        seen = token.read_text()
    return {**own_facts(), "sees the directory": "yes" if seen == expected else "no"}


def _others(theirs: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    return "; ".join(f"{k} {theirs.get(k)} there, {v} here" for k, v in here.items()
                     if theirs.get(k) != v)  # fmt: skip


def _perform_if_fit(
    asked: Mapping[str, str], performs: Performs, sweep: Sweep, job: SweepJob, threads: int
) -> Outcome:
    """On a worker: do the job, unless this worker, which may have come later, is another."""
    if other := _others(own_facts(), asked):
        said = f"a worker that came later is not as the process that asks: {other}"
        return Outcome(job.name, 1, 0.0, socket.gethostname(), said)
    return performs(sweep, job, threads)


def check_workers(client: Any, place: SweepPlace, wait: float = _FIRST_WORKER) -> int:
    """How many workers there are, after a check that they are fit for the sweep.

    Raises InputError when none comes within `wait` seconds, when one has other versions than this
    process, and when one does not see the sweep's directory.
    """
    try:
        client.wait_for_workers(1, timeout=wait)
    except TimeoutError:
        raise InputError(
            f"no Dask worker has come within {wait:g} s: start some (dask worker ADDRESS), or see "
            "why the queue does not start them"
        ) from None
    token, expected = place.root / "jobs" / f".seen-{secrets.token_hex(8)}", secrets.token_hex(16)
    token.write_text(expected)
    try:
        own = facts(token, expected)
        try:
            answers = client.run(facts, token, expected)
        except Exception as error:
            raise InputError(
                f"a Dask worker cannot run qgf_ref ({type(error).__name__}: {error}): install the "
                f"same version there as here, {own['qgf_ref']}"
            ) from error
    finally:
        token.unlink(missing_ok=True)
    for address, theirs in answers.items():
        if theirs["sees the directory"] != "yes":
            raise InputError(
                f"the worker {address} does not see {place.root}: --out must be on a file system "
                "that this machine and all workers share, under the same path"
            )
        if other := _others(theirs, own):
            raise InputError(
                f"the worker {address} is not as this process ({other}): results would depend on "
                "who does a job. Install the same versions"
            )
    return len(answers)
