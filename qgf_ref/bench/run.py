"""The whole measurement: in a process for each number of threads, bound to as many cores.

Other libraries' threads cannot be limited from outside; a process that may use n cores has all
contenders, and the machine's controls, make do with the same n.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qgf_ref.backends.engine import backend_named
from qgf_ref.bench.memory import measured
from qgf_ref.bench.settings import BenchSettings
from qgf_ref.errors import InputError, QGFError
from qgf_ref.progress import tracked
from qgf_ref.provenance import provenance
from qgf_ref.threads import VARIABLE, available_cores, thread_count

FRAMEWORKS = "jax", "jaxlib", "torch", "onnx", "onnxruntime", "openvino"
"""Whose versions are kept with the numbers: peers may use them."""
_IDLE = 0.25
"""Load average for each core up to which a machine is idle."""


def benchmark(settings: BenchSettings, *, first: bool = True) -> dict[str, Any]:
    """Everything that `settings` ask for: content for JSON.

    first: of the caller's measurements. The load that a later one finds is that of the one before.

    settings, rows (one for each cell and number of threads; see `cells.Bench.measure_cell`), notes
    (what was left out, and why), refused (by name: why a contender that does not compute the
    sampler, or fails, was not timed), and the origin of the numbers.
    Raises InputError when a peer cannot be imported, and when nobody does a cell.
    """
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    rows: list[dict[str, Any]] = []
    notes = [*(busy(load) if first else []), *settings.assumed()]
    refused: dict[str, str] = {}
    threads = settings.threads or (min(thread_count(), available_cores()),)
    for number in threads:
        part = measure_on(number, settings)
        rows += part["rows"]
        refused = {**part["refused"], **refused}
        notes += [note for note in part["notes"] if note not in notes]
    if settings.memory:
        notes += _add_memory(rows, settings)
    ceilings(rows)
    if not hasattr(os, "sched_setaffinity"):
        notes.append("this system cannot bind a process to cores: peers used what they liked")
    return {
        "settings": settings.asdict(),
        "rows": rows,
        "notes": notes,
        "refused": refused,
        "load_average_before": load,
        **origin(),
    }


def busy(load: tuple[float, float, float] | None) -> list[str]:
    """A line when the machine was not idle by its load average, which is None where it has none."""
    cores = os.cpu_count() or 1
    if load is None or load[0] <= max(0.5, _IDLE * cores):
        return []
    return [
        f"NOT IDLE: load {load[0]:.1f} on {cores} cores before the first measurement: these "
        "numbers are not the machine's"
    ]


def origin() -> dict[str, Any]:
    """`provenance`, and the versions of the frameworks that peers may use."""
    made_by = provenance()
    for name in FRAMEWORKS:
        try:
            made_by["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    return made_by


def measure_on(threads: int, settings: BenchSettings) -> dict[str, Any]:
    """Rows and notes on `threads` cores, from a process of its own.

    Raises InputError as `benchmark`, QGFError when the process dies.
    """
    for name in settings.backends:
        backend_named(name)  # what is not installed is said before anything is timed
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place, "answer.json")
        job = {
            "settings": settings.asdict(),
            "threads": threads,
            "answer": str(answer),
            "path": sys.path,
        }
        names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", VARIABLE)
        with _bound(threads):
            # peers may print: the answer goes through a file
            done = subprocess.run(
                [sys.executable, "-m", "qgf_ref.bench.cells"],
                input=json.dumps(job),
                text=True,
                check=False,
                env={**os.environ, **dict.fromkeys(names, str(threads))},
                stdout=subprocess.DEVNULL,
            )
        if done.returncode != 0 or not answer.exists():
            raise QGFError(
                f"the measurement on {threads} cores ended with exit code {done.returncode}; its "
                "message is above"
            )
        part: dict[str, Any] = json.loads(answer.read_bytes())
    if "input_error" in part:
        raise InputError(part["input_error"])
    return part


@contextmanager
def _bound(cores: int) -> Iterator[None]:
    """Bind this process, hence its children, to some of its cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    available = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(available)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, available)


def _add_memory(rows: list[dict[str, Any]], settings: BenchSettings) -> list[str]:
    """Add peak_memory_bytes to the rows; what could not be measured, and why."""
    jobs = {
        (name, row["network"], row["estimator"], row["dtype"], row["threads"])
        for row in rows
        for name in row["contenders"]
    }
    notes: list[str] = []
    for job in tracked(sorted(jobs), len(jobs), title="peak memory"):
        with _bound(job[-1]):
            peaks, note = measured(settings, *job)
        if note and note not in notes:
            notes.append(note)
        for row in rows:
            own = (row["network"], row["estimator"], row["dtype"], row["threads"])
            if own == job[1:] and job[0] in row["contenders"]:
                row["contenders"][job[0]]["peak_memory_bytes"] = peaks.get(str(row["batch"]))
    return notes


def ceilings(rows: list[dict[str, Any]]) -> None:
    """Add the ceilings, and each contender's share of them, to the rows.

    A ceiling is the fastest of all rounds of the same dtype and threads (and bytes read).
    """
    for row in rows:
        alike = [r for r in rows if (r["dtype"], r["threads"]) == (row["dtype"], row["threads"])]
        peak = max(r["gemm_gflops"]["max"] for r in alike)
        row["gemm_peak_gflops"] = peak
        size = row["weights_bytes"]
        read = max(r["read_gbytes"]["max"] for r in alike if r["weights_bytes"] == size)
        row["read_peak_gbytes"] = read
        for contender in row["contenders"].values():
            if "gflops_necessary" in contender:
                contender["share_of_gemm_peak"] = contender["gflops_necessary"] / peak
                contender["share_of_read_peak"] = contender["weight_gbytes"] / read
