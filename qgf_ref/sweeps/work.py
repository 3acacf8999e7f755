"""One job, in a process of its own (`qgf_ref.sweeps.forks`), as an order says.

The process ends itself when its stdin ends, that is when whoever ordered it is gone: training is
then saved and a job that goes on elsewhere finds it. A job that another process is still at is
waited for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qgf_ref.agents.registry import agent_named
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.datasets import find_dataset
from qgf_ref.errors import InputError, QGFError
from qgf_ref.evaluation.records import RecordsError
from qgf_ref.files import sole_use, write_json
from qgf_ref.sweeps.jobs import CHOSEN, SweepJob
from qgf_ref.sweeps.place import SweepPlace, make_directories
from qgf_ref.sweeps.playing import play, try_value
from qgf_ref.sweeps.spec import SweepSpec, spec_from_json
from qgf_ref.sweeps.sweep import BESIDE_UPDATES, Sweep, train_command

BAD_INPUT = 2
_PATIENCE = 120.0
"""Seconds that a job waits for one that is still at the same work, saving it."""
_GRACE = 30.0
"""Seconds that a job has to save itself when it is left alone."""


def do(sweep: Sweep, job: SweepJob) -> int:
    """Do a job in this process: 0, or 128 + the number of the signal that interrupted it.

    Raises as what it does: `train`, `evaluate`, …
    """
    if sweep.done(job):
        return 0
    if job.kind == "data":
        return _data(sweep, job)
    entry = sweep.spec.entry(job.entry)
    if job.kind == "train":
        return _train(sweep, job)
    if job.kind == "beside":
        return _beside(sweep, job)
    if job.kind == "try":
        try_value(sweep, job.task, entry, job.value)
    else:
        play(sweep, job.task, entry)
    return 0


def _data(sweep: Sweep, job: SweepJob) -> int:
    where = sweep.data_of(job.task)
    if job.task not in sweep.spec.collect:
        find_dataset(job.task, where)
        return 0
    from qgf_ref.data.collection.collect import collect, make_plan

    assert where is not None
    make_directories(Path(where))
    collect(make_plan(job.task, episodes=sweep.spec.collect[job.task], out=Path(where)), 1)
    return 0


def _train(sweep: Sweep, job: SweepJob) -> int:
    from qgf_ref.training.run import resume, start

    config, run = sweep.config(job), sweep.run(job)
    if train_command(config, run) == "start":
        finished = start(config, run)
    else:
        finished = resume(run, config.updates, config.data)
    return 0 if finished.signal is None else 128 + finished.signal


def _beside(sweep: Sweep, job: SweepJob) -> int:
    from qgf_ref.training.beside import train_beside

    usual = {"updates": BESIDE_UPDATES, "batch": 256, "learning_rate": 3e-4, "seed": 0}
    changes = {**usual, "backend": "numba", **sweep.spec.beside, "data": sweep.config(job).data}
    trained = train_beside(agent_named(job.network), sweep.run(job), changes)
    return 0 if trained.signal is None else 128 + trained.signal


def require_backends(sweep: Sweep) -> None:
    """Raise InputError where a training that is wanted has a backend that cannot run here."""
    asked: set[str] = set()
    for job in sweep.wanted()[1]:
        if job.kind == "train" and job.value != CHOSEN and job.entry not in asked:
            asked.add(job.entry)
            backend_named(sweep.config(job).backend)


def order(sweep: Sweep, job: SweepJob) -> bytes:
    """The line that `parsed` reads."""
    content = {
        "spec": sweep.spec.identity(), "root": str(sweep.place.root), "data": sweep.data,
        "job": vars(job), "path": [p for p in sys.path if p], "directory": str(Path.cwd()),
        "log": str(sweep.place.log(job.name)),
    }  # fmt: skip
    return json.dumps(content).encode() + b"\n"


def parsed(line: bytes) -> dict[str, Any]:
    """What `order` wrote."""
    content: dict[str, Any] = json.loads(line)
    return content


def follow(content: dict[str, Any]) -> int:
    """Do the job that was ordered, in this process; its exit code is that of the command line."""
    sys.path += [p for p in content["path"] if p not in sys.path]
    if Path(content["directory"]).is_dir():
        os.chdir(content["directory"])
    job = SweepJob(**{**content["job"], "needs": tuple(content["job"]["needs"])})
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        spec: SweepSpec = spec_from_json(content["spec"])
        sweep = Sweep(spec, SweepPlace(Path(content["root"])), content["data"])
        with _alone(sweep, job):
            note = sweep.place.note(job.name)
            started = time.time()
            about = {"job": job.name, "host": socket.gethostname(), "pid": os.getpid()}
            write_json(note, {**about, "state": "running", "started": started})
            code = do(sweep, job)
            if code == 0:
                took = round(time.time() - started, 2)
                write_json(note, {**about, "state": "done", "seconds": took})
    except RecordsError as error:
        place = sweep.place.records(job.task, job.entry, job.value)
        print(f"{job.name}: {error.reason}; remove {place}", file=sys.stderr)
        return BAD_INPUT
    except InputError as error:
        print(f"{job.name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except QGFError as error:
        print(f"{job.name}: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"{job.name}: there was not enough memory", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001  of a user's own agent or estimator, into the job's log
        traceback.print_exc()
        return 1
    return code


@contextmanager
def _alone(sweep: Sweep, job: SweepJob) -> Iterator[None]:
    """Wait for another process at the same job, which is saving itself, and keep others out."""
    path, until = sweep.place.lock(job.name), time.monotonic() + _PATIENCE
    busy = f"another process is still at it; see {sweep.place.log(job.name)}"
    while True:
        taken = sole_use(path, busy)
        try:
            taken.__enter__()
            break
        except InputError as error:
            if busy not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.1)
    try:
        yield
    finally:
        taken.__exit__(None, None, None)


def _end_with_stdin() -> None:
    """Stop this process, as by SIGTERM, when nobody holds the other end of its stdin any more."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(128 + signal.SIGTERM)
