#!/usr/bin/env bash
# Dask gives up a task that never began: each death of a worker counts against every task that was
# assigned to it, those that waited there included, and the error says that workers died running it.
#
# Expected: distributed.scheduler.allowed-failures (3) counts the deaths of workers "while running" a
# task; of 21 tasks on one worker of one thread, of which the first is killed each time (as by the kernel,
# when memory runs out), that one ends with KilledWorker and the twenty others are done.
# Seen (distributed 2026.8.0): a task that waits in a worker's queue is as suspicious as the one that runs,
# and a worker of one thread is given two (worker-saturation 1.1, rounded up). After the fourth death the
# one that waited ends with KilledWorker, too: "Attempted to run task … on 4 different workers", though no
# worker ever began it.
# Why it matters: in a sweep of trainings, one configuration that needs too much memory is enough to make
# others fail, at random, with a false reason. Let tasks leave a mark when they begin, and submit again
# what was blamed without one.
# Versions: distributed 2026.8.0, dask 2026.8.0.
# Source: observed; distributed/scheduler.py, Scheduler.remove_worker, which goes through all of a worker's
# `processing`.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet \
  "distributed==2026.8.0" "dask==2026.8.0"
cat > "$place/blamed.py" <<'PYTHON'
import logging
import os
import signal
import sys
import time
from pathlib import Path

from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker


def work(number: int, place: str) -> int:
    with Path(place, str(number)).open("a") as mark:
        mark.write("began\n")
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


def main(place: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, silence_logs=logging.CRITICAL,
                      dashboard_address=None) as cluster, Client(cluster) as client:
        futures = [client.submit(work, n, str(place), pure=False, priority=-n) for n in range(21)]
        failed = [n for n, future in enumerate(futures) if isinstance(future.exception(), KilledWorker)]
        began = [n for n in range(21) if (place / str(n)).exists()]
        print(f"ended with KilledWorker: {failed}; of them began: {[n for n in failed if n in began]}")
        for n in failed[1:]:
            print(f"  said of task {n}: {str(futures[n].exception()).split('.')[0]}")
    if len(failed) < 2 or [n for n in failed if n in began] != [0]:
        print("that has changed", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
mkdir "$place/marks"
"$place/venv/bin/python" "$place/blamed.py" "$place/marks"
