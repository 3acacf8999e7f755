"""qgf-ref study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qgf_ref.cli.arguments import (
    add_checkpoint_arguments,
    add_out,
    load_checkpoints,
    natural,
    next_command,
    output_directory,
    results_directory,
    task_name,
)
from qgf_ref.cli.checkpoint_options import given_options, path_or_name
from qgf_ref.cli.output import listed
from qgf_ref.errors import InputError
from qgf_ref.interop.load import EMBEDDED

EXAMPLE = """examples:
  qgf-ref study                                      the list of studies
  qgf-ref study didactic --quick                     under a minute
  qgf-ref study bias-variance --out lab              minutes; CSV, PNG and PDF in lab/
  qgf-ref study noise --checkpoint runs/seed0 runs/seed1 runs/seed2
  qgf-ref study didactic --estimators qgf bptt my_module:guide
  qgf-ref study scaling --data data --out lab        an hour or two; the same command goes on
  qgf-ref study didactic --redraw lab                seconds: the figures of lab's tables
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "study",
        help="the laboratory: estimators against closed-form truth, and the paper's studies",
        description="Run one study: print its tables, write its figures (PNG and PDF), every "
        "number behind them (CSV), settings and versions (JSON). Without a name: list the studies.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="STUDY", help="see the list: qgf-ref study")
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--quick", action="store_true", help="under a minute, in outline")
    parser.add_argument(
        "--estimators", nargs="+", metavar="E", help="names, or your.module:function"
    )
    parser.add_argument("--task", metavar="NAME", help="default: what the run was trained for")
    parser.add_argument(
        "--data", type=path_or_name, metavar="PATH", help="data set of the task (npz or directory)"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="K", help="processes (default 2)")
    parser.add_argument(
        "--backend",
        metavar="B",
        help="of the samplers: numpy, numba (episodes' default), cupy[:tf32]",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of everything random (default 0)")
    add_out(parser, "qgf_study", "its tables and figures")
    parser.add_argument(
        "--redraw",
        type=Path,
        metavar="DIR",
        help="only draw the figures again, from the tables of an earlier run in DIR; into DIR "
        "unless --out is given",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the studies, run one, or draw the figures of one again; 0."""
    from qgf_ref.studies.base import StudySettings, file_name, redraw, run_study
    from qgf_ref.studies.registry import STUDIES, study

    if args.name is None:
        for name, entry in STUDIES.items():
            nets = entry.on + " networks" * (entry.trained or entry.trains)
            kind = f"{nets}, {entry.paper}" if entry.paper else nets
            print(f"{name:14} {entry.summary}\n{'':14} ({kind})")
        args.result = STUDIES
        print("Next: qgf-ref study didactic --quick")
        return 0
    chosen = study(args.name)
    if args.redraw is not None:
        directory = output_directory(args.out or args.redraw, ())
        args.result = redraw(args.name, chosen, args.redraw, directory)
        _list(directory, args.result)
        return 0
    if args.backend is not None and not STUDIES[args.name].samples:
        sampling = ", ".join(name for name, entry in STUDIES.items() if entry.samples)
        raise InputError(
            f"--backend is for studies that run trained agents' samplers: {sampling}; "
            f"{args.name} does not"
        )
    settings = StudySettings(
        quick=args.quick,
        seed=args.seed,
        estimators=None if args.estimators is None else tuple(args.estimators),
        workers=args.workers,
        backend=args.backend,
        data=args.data,
        task=args.task,
    )
    entry = STUDIES[args.name]
    if entry.trained:
        checkpoints = load_checkpoints(args, "float32")
        settings = replace(
            settings,
            checkpoints=tuple(checkpoints),
            task=task_name(args.task, checkpoints),
        )
    elif entry.trains:
        if args.checkpoint != [EMBEDDED] or given_options(args):
            raise InputError(
                f"the study {args.name} trains its own networks: it takes no --checkpoint nor "
                "options of one"
            )
    elif args.checkpoint != [EMBEDDED] or args.task or args.data or given_options(args):
        raise InputError(
            f"the study {args.name} is of closed-form flows: it takes no --checkpoint nor options "
            "of one, --task or --data"
        )
    own = [file_name(args.name, "", suffix) for suffix in ("json", "txt", "csv")]
    out = results_directory(args, "qgf_study", own)
    kept = "runs" if entry.trains else "episodes"
    settings = replace(settings, records=out / f"study_{args.name}_{kept}".replace("-", "_"))
    files = run_study(args.name, chosen, settings, out)
    args.result = {**json.loads(files[0].read_bytes()), "files": files}
    _list(out, files)
    if args.quick:
        whole = next_command(args, "study", quick=False, overwrite=args.out is not None)
        print(f"Next: {whole}  (the whole study)")
    return 0


def _list(directory: Path, files: Sequence[Path]) -> None:
    print(listed(f"\nin {directory}:", [f.name for f in files]))
