"""Where a sweep keeps what: one directory, whose files are the state of its jobs.

sweep.json                           the spec, and versions of the code that began it
runs/TASK/ENTRY[/SETTING=VALUE]/seedN  a run each, as `qgf-ref train` leaves it
evaluations/TASK/ENTRY[@…]           records of the episodes that were played
results/TASK/ENTRY[@…].json          what tables are made of; with it, the runs may go
jobs/, logs/                         what each job's last attempt came to, and what it printed
table.csv, table.md, …               `qgf-ref sweep table`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError, reason
from qgf_ref.files import make_directory, write_json

SWEEP = "sweep.json"
FORMAT = 1


@dataclass(frozen=True)
class SweepPlace:
    """The paths in a sweep's directory."""

    root: Path

    def run(self, task: str, entry: str, value: str, seed: int) -> Path:
        """A run's directory; value "": nothing is tried."""
        return self.root / "runs" / task / entry / value / f"seed{seed}"

    def records(self, task: str, entry: str, value: str = "") -> Path:
        """Where an evaluation's records are; of a value that is tried, if given."""
        return self.root / "evaluations" / task / _at(entry, value)

    def result(self, task: str, entry: str, value: str = "") -> Path:
        """The result of an evaluation, or of a value that is tried."""
        return self.root / "results" / task / f"{_at(entry, value)}.json"

    def note(self, job: str) -> Path:
        """How the last attempt at a job ended."""
        return self.root / "jobs" / f"{_flat(job)}.json"

    def lock(self, job: str) -> Path:
        """Held by the process that is at a job."""
        return self.root / "jobs" / f".{_flat(job)}.lock"

    def begun(self, job: str) -> Path:
        """While a cluster has a job: a line for each worker that began it."""
        return self.root / "jobs" / f".{_flat(job)}.begun"

    def log(self, job: str) -> Path:
        """What the attempts at a job printed."""
        return self.root / "logs" / f"{_flat(job)}.log"

    def make(self) -> None:
        """Make the directory and those that jobs write notes into. Raises InputError."""
        for path in (self.root / "jobs", self.root / "logs"):
            make_directories(path)


def make_directories(path: Path) -> None:
    """Make `path` and what is above it. Raises InputError."""
    try:
        make_directory(path)
    except OSError as error:
        raise InputError(f"cannot make {path}: {reason(error)}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of ours; None where there is none. Raises InputError on a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, it is made again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no file of a sweep: remove it, it is made again")
    return content


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write a result, its directory made if need be."""
    make_directories(path.parent)
    write_json(path, {"format": FORMAT, **content})


def _at(entry: str, value: str) -> str:
    return f"{entry}@{value}" if value else entry


def _flat(job: str) -> str:
    return job.replace(" ", "_").replace("/", "__")
