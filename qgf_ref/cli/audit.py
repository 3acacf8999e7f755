"""qgf-ref audit."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from qgf_ref.cli.arguments import (
    add_checkpoint_arguments,
    add_out,
    load_checkpoint,
    natural,
    next_command,
    observations,
    results_directory,
)
from qgf_ref.cli.checkpoint_options import path_or_name
from qgf_ref.cli.flow_arguments import (
    add_flow_arguments,
    built_flow,
    require_flow_for_budget,
)
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator, learned_estimator_names

if TYPE_CHECKING:
    from qgf_ref.audit.report import AuditReport

ROWS = 64
"""Observations of a checkpoint that are used unless --rows says otherwise."""
EXAMPLE = """example:
  qgf-ref audit                                     the checkpoint inside the package
  qgf-ref audit --checkpoint exp/params_500000.pkl --obs obs.npz --out audit_500000
  qgf-ref audit --flow my_policy:build --budget 2000   networks of your own (qgf_ref.adapters)
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "audit",
        help="check every derivative of a checkpoint and profile the estimators on it",
        description="Check every derivative of a checkpoint against independent oracles, profile "
        "the gradient estimators on it, compare float32 with float64, and write a report. "
        "Exit code: 0 when every check passes, 1 when one fails, 2 on bad input.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser)
    add_flow_arguments(parser)
    parser.add_argument(
        "--obs",
        type=path_or_name,
        metavar="F.npz",
        help="observations: an npz with `obs` (N, O), or the word normal",
    )
    parser.add_argument(
        "--estimators",
        nargs="+",
        metavar="E",
        help="names, or your.module:function (default: all that this checkpoint has networks for)",
    )
    add_out(parser, "qgf_audit", "report.html, report.json and figures")
    parser.add_argument("--rows", type=int, help=f"observations used (default {ROWS})")
    parser.add_argument("--weight", type=float, default=0.1, help="guidance weight (default 0.1)")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument(
        "--backend",
        metavar="B",
        help="of what the profile repeats: numpy, numba or cupy (default: numba, if installed); "
        "what is verified always runs on numpy",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Audit, print, write; 0 if every check passed, else 1."""
    from qgf_ref.audit.page import write_report
    from qgf_ref.audit.report import (
        TABLE_WIDTHS,
        estimator_note,
        estimator_rows,
        remark_lines,
        unchecked_lines,
        verdict,
    )
    from qgf_ref.audit.rules import flow_of
    from qgf_ref.audit.run import audit
    from qgf_ref.audit.strength import strength_lines, strength_note, strength_rows
    from qgf_ref.tables import text_table

    chosen = [estimator(name) for name in args.estimators or ()]
    if args.flow is not None:
        return _run_flow(args, chosen)
    require_flow_for_budget(args)
    checkpoint = load_checkpoint(args)
    absent: list[Estimator] = []
    if not args.estimators and flow_of(checkpoint) is not None:
        present = checkpoint.auxiliary.present()
        for e in map(estimator, learned_estimator_names()):
            (chosen if e.auxiliary is None or e.auxiliary in present else absent).append(e)
    obs = observations(args.obs, checkpoint, args.seed)
    rows = ROWS if args.rows is None else args.rows
    if rows < 2:
        raise InputError(f"--rows must be at least 2, got {rows}")
    if chosen:
        checkpoint.flow.times  # noqa: B018  (an agent without a flow is told first)
    out = results_directory(args, "qgf_audit", ("report.html", "report.json"))
    print(f"checkpoint {checkpoint.source}")
    if absent:
        names = ", ".join(e.label for e in absent)
        print(f"left out, having no network here: {names} (see qgf-ref train-extra)")
    report = audit(
        checkpoint,
        obs,
        chosen,
        rows=rows,
        weight=args.weight,
        seed=args.seed,
        backend=args.backend,
    )
    page, args.result = write_report(report, out), report.as_json()
    print(textwrap.fill(verdict(report), 98, subsequent_indent="  "))
    for line in (*map(str, report.failed), *unchecked_lines(report), *remark_lines(report)):
        print(textwrap.fill(line, 98, initial_indent="  ", subsequent_indent="    "))
    if chosen:
        left = range(len(TABLE_WIDTHS) + 1)
        print("\n" + text_table(*estimator_rows(report), left=left, most=TABLE_WIDTHS))
    print(textwrap.fill(estimator_note(report), 98))
    if report.strength:
        table = strength_rows(report.strength, report.profile.times)
        print("\n" + text_table(*table, left={0}, most={0: 24}))
        said = [strength_note(args.weight), *strength_lines(report.strength)]
        print("\n".join(textwrap.fill(line, 98) for line in said))
    print(f"\n{report.seconds:.0f} s. Report: {page} (numbers: {out / 'report.json'})")
    for line in _next(args, report, chosen):
        print(line)
    return 0 if report.passed else 1


FLOW_ESTIMATORS = ("ood", "qgf", "qgf_jacobian", "bptt")
"""Audited of a flow where none are named."""


def _run_flow(args: argparse.Namespace, chosen: list[Estimator]) -> int:
    """Audit a flow of the user's networks and print; 0 if its contract holds, else 1."""
    from qgf_ref.audit.flow_audit import BUDGET, audit_flow
    from qgf_ref.audit.flow_report import FLOW_NOTE, estimator_table, summary_lines
    from qgf_ref.audit.page import write_flow_report
    from qgf_ref.provenance import provenance
    from qgf_ref.tables import text_table

    typed = [f"--{name}" for name in ("rows", "backend") if getattr(args, name) is not None]
    if typed:
        raise InputError(
            "a --flow is audited on its first rows, by its own functions: leave out "
            f"{', '.join(typed)}"
        )
    flow, obs = built_flow(args)
    out = None if args.out is None else results_directory(args, "", ("report.html", "report.json"))
    print(f"flow {args.flow}: {flow!r}")
    report = audit_flow(
        flow,
        obs,
        chosen or [estimator(name) for name in FLOW_ESTIMATORS],
        weight=args.weight,
        seed=args.seed,
        budget=BUDGET if args.budget is None else args.budget,
    )
    args.result = report.as_json()
    for line in summary_lines(report):
        print(textwrap.fill(line, 98, subsequent_indent="  "))
    if report.estimators:
        print("\n" + text_table(*estimator_table(report), most={1: 24}))
        print(textwrap.fill(FLOW_NOTE, 98))
    if out is not None:
        page = write_flow_report(report, provenance(), out)
        print(f"wrote {page} and {out / 'report.json'}")
    if report.interrupted:
        raise KeyboardInterrupt
    return 0 if report.passed else 1


def _next(args: argparse.Namespace, report: AuditReport, chosen: list[Estimator]) -> list[str]:
    """What can be asked next, with what was typed; about an estimator that fails, if one does."""
    guided = [e for e in chosen if e.name != "none"]
    if not guided:
        return []
    wrong = [e for e in guided if any(f"estimator {e.label} (" in c.name for c in report.failed)]
    usual = [e for e in guided if e.name == "qgf_jacobian"]
    label, step = (wrong or usual or guided)[0].label, len(report.profile.times) // 2
    explain = next_command(args, "explain", estimator=label, step=step)
    # closed-form flows have no trained networks beside them
    known = [e.label for e in guided if e.auxiliary is None] if args.estimators else []
    study = next_command(args, "study", ("seed",), name="bias-variance", estimators=known or None)
    return [
        f"Next: {explain}  (one gradient, line by line)",
        f"      {study}  (how biased, against the exact guidance)",
    ]
