"""qgf-ref sweep."""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgf_ref.cli.arguments import next_command
from qgf_ref.cli.checkpoint_options import path_or_name
from qgf_ref.errors import InputError
from qgf_ref.files import sole_use, user_path
from qgf_ref.threads import thread_count

if TYPE_CHECKING:
    from qgf_ref.sweeps.driver import Report
    from qgf_ref.sweeps.sweep import Sweep

EXAMPLE = """examples:
  qgf-ref sweep fig5.toml --dry-run           its jobs, core hours and disk
  qgf-ref sweep fig5.toml --out fig5          on this machine: a worker for each core
  qgf-ref sweep status fig5                   how far it is, what failed
  qgf-ref sweep table fig5                    the tables and figures of what is done
  qgf-ref sweep fig5.toml --out fig5 --scheduler tcp://10.0.0.1:8786
  qgf-ref sweep fig5.toml --out fig5 --slurm --workers 40

a spec, fig5.toml (more in the page of sweeps):
  tasks = ["cube-single-play-singletask-task1-v0"]
  seeds = [0, 1, 2]
  [train]
  updates = 10_000
  [evaluate]
  weights = [0.03, 0.1, 0.3]
  [agents.iql]
  methods = ["bc", "bfn-16", "qgf"]
  [agents.edp]
  try.bc_weight = [30, 100, 300]

Ctrl-C, a kill, a lost worker cost nothing that was saved: the same command goes on.
"""
QUEUES = ("slurm", "pbs", "lsf", "sge", "oar", "htcondor", "moab")
_WAYS = ("status", "table")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "sweep",
        help="tasks × agents × seeds from a spec: data, training, evaluation, tables",
        description="Work off a spec as a graph of jobs: data sets, training, auxiliary networks, "
        "evaluation, tables; on Dask, here or on a cluster. Who does what decides no result. "
        "Exit code: 0, 1 when a job failed, 2 on bad input, 130 on Ctrl-C.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="SPEC.toml", help="or: status DIR, or table DIR")
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="of status, table")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the sweep's directory (default: the spec's name)"
    )
    parser.add_argument(
        "--data", type=path_or_name, metavar="PATH", help="as of qgf-ref train (default: the cache)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list jobs, core hours, disk; stop")
    where = parser.add_argument_group("who works (default: a Dask cluster of this machine)")
    where.add_argument("--workers", type=int, metavar="K", help="jobs at once (default: cores)")
    where.add_argument("--threads", type=int, default=1, metavar="N", help="of a job (default 1)")
    where.add_argument("--serial", action="store_true", help="one job after the other, no Dask")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler that runs")
    queues = where.add_mutually_exclusive_group()
    for queue in QUEUES:
        queues.add_argument(
            f"--{queue}", dest="queue", action="store_const", const=queue,
            help="start workers by this queue" if queue == "slurm" else argparse.SUPPRESS,
        )  # fmt: skip
    where.add_argument(
        "--retries", type=int, default=1, metavar="N", help="of a job that fails (default 1)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Work off a spec, or tell of a sweep; see the description."""
    if args.what in _WAYS:
        return _tell(args)
    if args.directory is not None:
        if near := difflib.get_close_matches(args.what, _WAYS, 1):
            raise InputError(
                f"unknown {args.what!r}; did you mean qgf-ref sweep {near[0]} {args.directory}?"
            )
        raise InputError(
            f"a directory goes with {' or '.join(_WAYS)}: qgf-ref sweep {args.what} --out "
            f"{args.directory}"
        )
    from qgf_ref.sweeps.place import SweepPlace, make_directories
    from qgf_ref.sweeps.report import begin, continued
    from qgf_ref.sweeps.spec_file import read_spec
    from qgf_ref.sweeps.work import require_backends

    _check(args)
    spec = read_spec(Path(args.what))
    root = (args.out or Path(user_path(args.what).stem)).resolve()
    if root.is_file():
        raise InputError(f"--out {root} is a file: give a directory")
    data = None if args.data is None else str(user_path(args.data).resolve())
    place = SweepPlace(root)
    if args.dry_run:
        return _dry_run(args, continued(spec, place, data)[0])
    sweep, _ = continued(spec, place, data)  # refused before anything is made
    if not (args.scheduler or args.queue):
        require_backends(sweep)
    make_directories(root)
    busy = f"another process works off the sweep in {root}: qgf-ref sweep status {root}"
    with sole_use(root / ".lock", busy):
        return _work(args, begin(spec, place, data))


def _check(args: argparse.Namespace) -> None:
    ways = [f"--{n}" for n in ("serial", "scheduler") if getattr(args, n)]
    ways += [f"--{args.queue}"] if args.queue else []
    if len(ways) > 1:
        raise InputError(f"{' and '.join(ways)} are different workers: give one")
    for name, least in (("workers", 1), ("threads", 1), ("retries", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be ≥ {least}, got {value}")
    thread_count(args.threads)
    if args.workers is not None and (args.serial or args.scheduler):
        raise InputError(f"--workers does not go with {ways[0]}, which has its own")


def _dry_run(args: argparse.Namespace, sweep: Sweep) -> int:
    from qgf_ref.sweeps.estimate import cost

    every, wanted = sweep.wanted()
    for job in wanted:
        print(job.name)
    total = cost(sweep, wanted)
    counts = Counter(job.kind for job in wanted)
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    print(
        f"\n{len(wanted)} of {len(every)} jobs are to be done ({kinds or 'nothing'}): about "
        f"{total.core_hours:.1f} core hours, {total.bytes / 1e9:.2g} GB on disk"
    )
    args.result = {
        "jobs": [job.name for job in wanted], "of": len(every), "core_hours": total.core_hours,
        "bytes": total.bytes,
    }  # fmt: skip
    print(f"Next: {next_command(args, 'sweep', dry_run=False)}")
    return 0


def _work(args: argparse.Namespace, sweep: Sweep) -> int:
    from qgf_ref.progress import progress
    from qgf_ref.sweeps.driver import goes_on, work_off

    _, wanted = sweep.wanted()
    root = sweep.place.root
    with (
        _runner(args, sweep, len(wanted)) as runner,
        progress(len(wanted), "job") as job,
        goes_on(root),
    ):
        report = work_off(sweep, runner, retries=args.retries, progress=job)
    code = _say(report, sweep)
    shown = _tables(args, sweep)
    args.result = {**vars(report), **shown}
    return code


@contextmanager
def _runner(args: argparse.Namespace, sweep: Sweep, wanted: int) -> Iterator[Any]:
    from qgf_ref.sweeps.driver import SerialRunner

    if args.serial or not wanted:
        yield SerialRunner(sweep, args.threads)
        return
    from qgf_ref.sweeps import dask_runner
    from qgf_ref.sweeps.workers import check_workers

    if args.scheduler:
        client = dask_runner.running(args.scheduler)
    elif args.queue:
        asked = sweep.spec.cluster
        client = dask_runner.queued(args.queue, args.workers or 1, args.threads, asked)
    else:
        workers = dask_runner.local_workers(args.workers, args.threads)
        client = dask_runner.local(min(workers, wanted), args.threads)
    with client as connected:
        count = check_workers(connected, sweep.place)
        at_once = f"{count} worker{'s' * (count > 1)}, {args.threads} thread each"
        print(f"{at_once}; dashboard {connected.dashboard_link}", file=sys.stderr)
        yield dask_runner.DaskRunner(sweep, connected, args.threads)


def _say(report: Report, sweep: Sweep) -> int:
    """What became of the jobs; the exit code."""
    print(
        f"{len(report.done)} jobs done, {report.there} were done or not needed, "
        f"{len(report.failed)} failed, {len(report.blocked)} wait for those"
    )
    for name, why in report.failed.items():
        told = f"failed: {name}: {why}"
        print(textwrap.fill(told, 98, subsequent_indent="  ", break_on_hyphens=False))
        print(f"  log: {sweep.place.log(name)}")
    return 1 if report.failed else 0


def _tables(args: argparse.Namespace, sweep: Sweep) -> dict[str, Any]:
    from qgf_ref.sweeps.report import tables, write_tables
    from qgf_ref.sweeps.table import terminal
    from qgf_ref.tables import text_table

    made, root = tables(sweep), sweep.place.root
    table, missing = made.rows, made.missing
    if table:
        print(text_table(*terminal(sweep, table), left=(0,)))
    for each in missing:
        print(f"missing: {each}")
    files = write_tables(sweep, made)
    if files:
        print(f"\n{' '.join(f.name for f in files)}\nare in {root}")
        whole = [row for row in table if row["tasks"] == row["of_tasks"]]
        if whole:
            most = max(row["success"] for row in whole)
            leads = ", ".join(row["method"] for row in whole if row["success"] == most)
            print(f"most success: {leads}, {most:.2f}")
    args.directory = root
    ways = {"what": "status"} if missing else {"what": "table"}
    dropped = {"out": None, "data": None, "workers": None, "queue": None, "scheduler": None}
    if missing or args.what != "table":
        again = next_command(args, "sweep", (), directory=str(root), **ways, **dropped)
        print(f"Next: {again}")
    return {"rows": table, "missing": missing, "files": files}


def _tell(args: argparse.Namespace) -> int:
    """`status DIR` and `table DIR`."""
    from qgf_ref.sweeps.report import opened

    if args.directory is None:
        raise InputError(f"{args.what} of which sweep? qgf-ref sweep {args.what} DIR")
    given = [
        f"--{n.replace('_', '-')}"
        for n in ("out", "data", "workers", "scheduler", "queue", "serial", "dry_run")
        if getattr(args, n)
    ]
    if given:
        raise InputError(f"{args.what} only reads {args.directory}: it takes no {', '.join(given)}")
    sweep = opened(args.directory.resolve())
    if args.what == "table":
        args.result = _tables(args, sweep)
        return 0
    return _status(args, sweep)


def _status(args: argparse.Namespace, sweep: Sweep) -> int:
    from qgf_ref.sweeps.report import status
    from qgf_ref.tables import text_table

    states = status(sweep)
    order = ("done", "not needed", "under way", "stopped", "waiting", "failed")
    kinds = list(dict.fromkeys(s.job.kind for s in states))
    counts = Counter((s.job.kind, s.state) for s in states)
    body = [[k, *(str(counts[k, s] or "") for s in order)] for k in kinds]
    print(text_table(["jobs", *order], body, left=(0,)))
    for state in ("under way", "stopped", "failed"):
        for each in (s for s in states if s.state == state):
            told = f"{state}: {each.job.name}{': ' * bool(each.said)}{each.said}"
            print(textwrap.fill(told, 98, subsequent_indent="  ", break_on_hyphens=False))
            if state == "failed":
                print(f"  log: {sweep.place.log(each.job.name)}")
    args.result = [{"job": s.job.name, "state": s.state, "said": s.said} for s in states]
    done = all(s.state in ("done", "not needed") for s in states)
    root = str(sweep.place.root)
    if done:
        print(f"Next: {next_command(args, 'sweep', (), what='table', directory=root)}")
    else:
        print("Next: the command that began the sweep goes on with it")
    return 0
