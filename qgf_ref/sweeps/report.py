"""What `qgf-ref sweep` writes and tells of a sweep: its tables, figures, and how far it is."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError
from qgf_ref.files import csv_bytes, lock, write_atomically, write_json
from qgf_ref.plotting import can_draw, png
from qgf_ref.provenance import provenance
from qgf_ref.sweeps import plots
from qgf_ref.sweeps.jobs import SweepJob
from qgf_ref.sweeps.place import FORMAT, SWEEP, SweepPlace, read_json
from qgf_ref.sweeps.spec import SweepSpec, spec_from_json
from qgf_ref.sweeps.sweep import Sweep, differing
from qgf_ref.sweeps.table import LabelResults, costs, gather, markdown, rows
from qgf_ref.training.record import RECORD, Record

FILES = (
    "table.csv", "table.md", "table.json", "costs.csv", "success.png", "profiles.png", "compute.png"
)  # fmt: skip


def begin(spec: SweepSpec, place: SweepPlace, data: str | None) -> Sweep:
    """The sweep of a spec in its directory, which is made, or is found to be of the same sweep.

    A spec may have grown since: tasks and agents may have been added. Raises InputError when the
    directory is another sweep's.
    """
    sweep, content = continued(spec, place, data)
    place.make()
    began = (content or {}).get("provenance") or provenance()
    about = {"format": FORMAT, "spec": _plain(spec), "data": sweep.data, "provenance": began}
    write_json(place.root / SWEEP, about)
    return sweep


def continued(
    spec: SweepSpec, place: SweepPlace, data: str | None
) -> tuple[Sweep, dict[str, Any] | None]:
    """What `begin` begins or goes on with, and its file as it stands; nothing is written."""
    path = place.root / SWEEP
    content = read_json(path)
    if content is None:
        return Sweep(spec, place, data), None
    found = content.get("spec")
    if content.get("format") != FORMAT or not isinstance(found, dict) or "entries" not in found:
        raise InputError(f"{path} is no sweep's: give another --out")
    before, now = (_shared(each, found) for each in (found, _plain(spec)))
    if before != now:
        if before["tasks"] != now["tasks"]:
            now["tasks"] = list(spec.tasks)  # all that were asked for, not only the shared
        raise InputError(
            f"{place.root} belongs to another sweep ({differing(before, now)}): give another "
            "--out. Only tasks and agents may be added to a sweep"
        )
    return Sweep(spec, place, data if data is not None else content.get("data")), content


def opened(root: Path) -> Sweep:
    """The sweep that was begun in a directory. Raises InputError when none was."""
    content = read_json(root / SWEEP)
    if content is None:
        raise InputError(
            f"{root} holds no sweep: begin one with qgf-ref sweep SPEC.toml --out {root}"
        )
    try:
        spec = spec_from_json(content.get("spec", {}))
    except InputError as error:
        raise InputError(f"{root / SWEEP} is no sweep's ({error}): give its directory") from error
    return Sweep(spec, SweepPlace(root), content.get("data"))


@dataclass(frozen=True)
class SweepTables:
    """What there is to tell of a sweep: what was played, the rows of it, and what is missing."""

    played: list[LabelResults]
    rows: list[dict[str, Any]]
    missing: list[str]


def tables(sweep: Sweep) -> SweepTables:
    """The tables of the results that are there; nothing is written."""
    played, missing = gather(sweep)
    return SweepTables(played, rows(sweep, played), missing)


def write_tables(sweep: Sweep, made: SweepTables | None = None) -> list[Path]:
    """Write what there is of `FILES`: none while there is no result."""
    made = made or tables(sweep)
    if not made.rows:
        return []
    played, table, missing = made.played, made.rows, made.missing
    root, spec = sweep.place.root, sweep.spec
    spent = costs(sweep)
    write_atomically(root / "table.csv", csv_bytes(table))
    write_atomically(root / "table.md", markdown(sweep, table, missing).encode())
    write_json(root / "table.json", {"spec": _plain(spec), "rows": table, "missing": missing})
    write_atomically(root / "costs.csv", csv_bytes(spent))
    files = ["table.csv", "table.md", "table.json", "costs.csv"]
    if can_draw():
        seeds = f"{len(spec.seeds)} seed{'s' * (len(spec.seeds) > 1)}"
        tasks = spec.tasks[0] if len(spec.tasks) == 1 else f"{len(spec.tasks)} tasks"
        heading, each = f"{tasks}, {seeds}", Counter(r["method"] for r in spent)
        time = {
            label: sum(r["milliseconds_per_chunk"] for r in spent if r["method"] == label) / n
            for label, n in each.items()
        }
        drawn = {
            "success.png": plots.bars(table, heading),
            "profiles.png": plots.profiles(played, spec.tasks, heading),
            "compute.png": plots.against_compute(table, time, heading),
        }
        for name, figure in drawn.items():
            write_atomically(root / name, png(figure))
        files += drawn
    return [root / name for name in files]


@dataclass(frozen=True)
class State:
    """Of one job: "done", "under way", "failed", "stopped" (begun and left), "waiting" or "not
    needed" (its result is there and its files are not).
    """

    job: SweepJob
    state: str
    said: str = ""


def status(sweep: Sweep) -> list[State]:
    """How far every job is; reads files only."""
    every, wanted = sweep.wanted()
    names, found = {job.name for job in wanted}, []
    for job in every:
        if job.name not in names:
            found.append(State(job, "done" if sweep.done(job) else "not needed"))
            continue
        note = read_json(sweep.place.note(job.name)) or {}
        if note.get("state") == "failed":
            found.append(State(job, "failed", str(note.get("why", ""))))
        elif note.get("state") == "running":
            if _held(sweep.place.lock(job.name)):
                how = f"on {note.get('host')}{_reached(sweep, job)}"
                found.append(State(job, "under way", how))
            else:
                found.append(State(job, "stopped", _reached(sweep, job).removeprefix(", ")))
        else:
            found.append(State(job, "waiting"))
    return found


def _held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        lock(handle, path, "held")
        return False
    except InputError:
        return True
    finally:
        os.close(handle)


def _reached(sweep: Sweep, job: SweepJob) -> str:
    if job.kind != "train":
        return ""
    try:
        run = sweep.run(job)
    except InputError:  # its value is not chosen any more
        return ""
    if not (run / RECORD).exists():
        return ""
    record = Record.read(run)
    return f", update {record.last_update} of {record.config.updates} is saved"


def _plain(spec: SweepSpec) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(spec.identity()))
    return content


def _shared(identity: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What must not change of an identity: all but tasks and entries that came later."""
    names = {entry["name"] for entry in before["entries"]}
    entries = {e["name"]: e for e in identity["entries"] if e["name"] in names}
    tasks = [name for name in identity["tasks"] if name in before["tasks"]]
    apart = ("tasks", "entries", "baseline", "collect", "beside")
    rest = {k: v for k, v in identity.items() if k not in apart}
    rest["collect"] = {k: v for k, v in identity["collect"].items() if k in before["collect"]}
    if any(entry["extra"] for entry in before["entries"]):
        rest["extra"] = identity["beside"]
    # in this order: what differs first is told
    return {**rest, "tasks": sorted(tasks), "agents": dict(sorted(entries.items()))}
