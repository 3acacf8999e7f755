"""Processes of jobs: `python -m qgf_ref.sweeps.forks`, orders on its stdin, a line each.

Of a short job most is imports and the loading of kernels. So this process does them once, and forks
itself for each job: every job still has a process of its own, which shares nothing with another but
what was imported. Where a fork is not safe (other systems than Linux; a library has threads), it is
itself the process of its first job.

For each job that it forked its exit code is written to stdout, as `Popen.returncode` gives it;
IDLE, before it ends since no order came for a while. It ends when its stdin does, that is when
whoever started it is gone; so does its job (`qgf_ref.sweeps.work`), whose stdin is the same.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from qgf_ref.sweeps.work import follow, parsed

IDLE = b"idle\n"
_IDLE_SECONDS = 60.0
_OF_RUNS = ("train", "beside")


def main() -> int:
    """Do what stdin orders, until it ends; the exit code."""
    while True:
        if not select.select([0], [], [], _IDLE_SECONDS)[0]:
            _say(IDLE)
            return 0
        # one at a time is sent: nothing is left in this buffer for a fork
        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        content = parsed(line)
        with suppress(Exception):  # the job itself will say so, in its log
            _prepare(content["job"]["kind"])
        if not _may_fork():
            return _job(content)
        child = os.fork()
        if child == 0:
            os.setsid()
            return _job(content)
        _, status = os.waitpid(child, 0)
        _say(b"%d\n" % os.waitstatus_to_exitcode(status))


def _job(content: dict[str, Any]) -> int:
    """Be the process of a job: what it prints goes to its log, and nothing to who ordered it."""
    log = os.open(content["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    return follow(content)


def _say(words: bytes) -> None:
    with suppress(BrokenPipeError):  # who ordered is gone; stdin has ended, too
        os.write(1, words)


def _may_fork() -> bool:
    """Whether this process has one thread: a lock that another holds would stay locked."""
    return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1


def _prepare(kind: str) -> None:
    """Import, and load, what the jobs of a kind use. Never what has a device, or a user's code."""
    if kind not in _OF_RUNS:
        return
    import qgf_ref.training.beside
    import qgf_ref.training.run  # noqa: F401
    from qgf_ref.backends.numba.backend import kernels
    from qgf_ref.plotting import can_draw, new_figure, png

    if can_draw():
        png(new_figure())
    kernels("float32")


if __name__ == "__main__":
    sys.exit(main())
