"""Starting a job's process and waiting for it: what a worker does, here or on another machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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

    The process gets its order by stdin, which stays open: it ends when this process is gone.
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
        process = subprocess.Popen(
            [sys.executable, "-m", "qgf_ref.sweeps.work"],
            stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            process.stdin.write(order(sweep, job))
            process.stdin.flush()
            code = process.wait()
        except BrokenPipeError:
            code = process.wait()
        finally:
            process.stdin.close()
            process.wait()
    said = ""
    if code != 0:
        said = log.read_bytes()[here:][-_TAIL:].decode(errors="replace")
    return Outcome(job.name, code, time.monotonic() - began, socket.gethostname(), said)
