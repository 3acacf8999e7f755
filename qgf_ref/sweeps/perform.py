"""Starting a job's process and waiting for it: what a worker does, here or on another machine."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qgf_ref.sweeps.forks import IDLE
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.sweeps.work import BAD_INPUT, order
from qgf_ref.threads import BLAS_VARIABLES, VARIABLE

_TAIL = 2000
_SIGNALLED = 128


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. code: of the process, negative for a signal; said: its last words."""

    job: str
    code: int
    seconds: float
    host: str
    said: str = ""

    @property
    def final(self) -> bool:
        """Whether another attempt would end in the same way: bad input does."""
        return self.code == BAD_INPUT

    @property
    def reason(self) -> str:
        """In one line, for people."""
        if self.code == -signal.SIGKILL:
            return (
                f"its process was killed on {self.host}: out of memory? Give fewer --workers, or "
                "more memory each"
            )
        if self.code > _SIGNALLED:
            return (
                f"its process was ended by signal {self.code - _SIGNALLED} on {self.host}; what it "
                "had done is saved"
            )
        if self.code < 0:
            return f"its process was ended by signal {-self.code} on {self.host}"
        last = [line for line in self.said.splitlines() if line.strip()]
        return (
            last[-1].strip().removeprefix(f"{self.job}: ")
            if last
            else f"exit code {self.code} on {self.host}"
        )


def perform(sweep: Sweep, job: SweepJob, threads: int = 1) -> Outcome:
    """Do a job in a process of its own, on so many threads; what it prints goes to its log.

    That process ends when this one is gone (`qgf_ref.sweeps.forks`).
    """
    count = str(threads)
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, **dict.fromkeys((VARIABLE, *BLAS_VARIABLES), count), "PYTHONPATH": path,
    }  # fmt: skip
    began, log = time.monotonic(), sweep.place.log(job.name)
    with log.open("ab") as output:
        output.write(f"--- {time.strftime('%F %T')} {socket.gethostname()}\n".encode())
        output.flush()
        here = output.tell()
        code = _code(order(sweep, job), environment, output)
    said = ""
    if code != 0:
        said = log.read_bytes()[here:][-_TAIL:].decode(errors="replace")
    return Outcome(job.name, code, time.monotonic() - began, socket.gethostname(), said)


def _code(line: bytes, environment: dict[str, str], output: BinaryIO) -> int:
    """The exit code of the process of a job: a fork of one that is there, or of one more."""
    key = frozenset(environment.items())
    waiting = _waiting.setdefault(key, [])
    while True:
        try:  # threads of one worker may be here: no two take the same
            starter, fresh = waiting.pop(), False
        except IndexError:
            starter, fresh = _Starter(environment, output), True
        code = starter.code(line, fresh)
        if code is not None:
            break
    if not starter.ended:
        waiting.append(starter)
    return code


class _Starter:
    """A process of `qgf_ref.sweeps.forks`. output: takes what it says that is no job's."""

    def __init__(self, environment: dict[str, str], output: BinaryIO) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qgf_ref.sweeps.forks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.ended = False

    def code(self, line: bytes, fresh: bool) -> int | None:
        """The exit code of the job of an order; None if this process ended before it came."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said = b""
        try:
            if not fresh and self.process.poll() is not None:
                return None
            with suppress(BrokenPipeError):
                self.process.stdin.write(line)
                self.process.stdin.flush()
                said = self.process.stdout.readline()
            if not said:  # it is the job itself, or is gone
                self.process.wait()
        finally:  # of an interruption, too
            if said in (b"", IDLE):
                self.end()
        if said == IDLE:
            return None
        return int(said) if said else self.process.returncode

    def end(self) -> None:
        """Let it end, and wait for that: what it has forked saves itself before."""
        self.let_go()
        self.process.wait()

    def let_go(self) -> None:
        """Let it end."""
        self.ended = True
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


_waiting: dict[frozenset[tuple[str, str]], list[_Starter]] = {}
"""Those that have no job now, by their environment. They end by themselves, after a while or with
this process."""


@atexit.register
def _let_go() -> None:
    """End them; a worker is not kept waiting for that: Dask gives it four seconds to close."""
    starters = [starter for waiting in _waiting.values() for starter in waiting]
    for starter in starters:
        starter.let_go()
    until = time.monotonic() + 1.0
    for starter in starters:
        with suppress(subprocess.TimeoutExpired):
            starter.process.wait(max(0.0, until - time.monotonic()))
