#!/usr/bin/env bash
# Importing dask_jobqueue replaces the process's handler of Ctrl-C by one that calls sys.exit(): no
# KeyboardInterrupt is raised any more, in a program that has made no cluster yet.
#
# Expected: import dask_jobqueue, for its SLURMCluster, defines classes; Ctrl-C goes on to raise
# KeyboardInterrupt, and `except KeyboardInterrupt` saves what there is.
# Seen (dask-jobqueue 0.9.0, with distributed 2026.8.0): its module runner, which the package imports, sets
# signal.signal(SIGINT, …) while it is imported. From then on Ctrl-C raises SystemExit, with exit code 0:
# handlers for KeyboardInterrupt are passed over, and a shell script goes on as if all had been done.
# SIGTERM is left as it was.
# Why it matters: a long training or sweep that saves on Ctrl-C does so until somebody imports the package
# that starts its workers. Keep signal.getsignal(SIGINT) before the import, and set it again after it.
# Versions: dask-jobqueue 0.9.0, distributed 2026.8.0, dask 2026.8.0.
# Source: observed; dask_jobqueue/runner.py.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet \
  "dask-jobqueue==0.9.0" "distributed==2026.8.0" "dask==2026.8.0"
cat > "$place/interrupted.py" <<'PYTHON'
import os
import signal
import sys
import time

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this with another
before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM")}
if sys.argv[1] == "after":
    import dask_jobqueue  # noqa: F401
for name, handler in before.items():
    kept = signal.getsignal(getattr(signal, name)) is handler
    print(f"  {name}: {'the same handler' if kept else 'another handler'}")
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("  Ctrl-C: KeyboardInterrupt, caught")
    sys.exit(3)
except SystemExit as stop:
    print(f"  Ctrl-C: SystemExit, with code {stop.code}")
    raise
PYTHON
for when in before after; do
  echo "$when the import"
  code=0
  "$place/venv/bin/python" "$place/interrupted.py" "$when" || code=$?
  echo "  exit code $code"
  if [[ $when == before && $code != 3 ]] || [[ $when == after && $code != 0 ]]; then
    echo "that has changed" >&2
    exit 1
  fi
done
