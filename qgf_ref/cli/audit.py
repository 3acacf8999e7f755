"""qgf-ref audit."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from qgf_ref.cli.arguments import (
    add_checkpoint_arguments,
    load_checkpoint,
    natural,
    observations,
    output_directory,
)
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.interop.load import is_embedded

EXAMPLE = """example:
  qgf-ref audit                                     the checkpoint inside the package
  qgf-ref audit --checkpoint exp/params_500000.pkl --obs obs.npz --out audit_500000
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
    parser.add_argument(
        "--obs",
        metavar="F.npz",
        help="observations: an npz with `obs` (N, O), or the word normal",
    )
    parser.add_argument(
        "--estimators",
        nargs="+",
        metavar="E",
        help="names, or your.module:function (default: all that this checkpoint has networks for)",
    )
    parser.add_argument("--out", type=Path, default=Path("qgf_audit"), metavar="DIR")
    parser.add_argument("--rows", type=int, default=64, help="observations used (default 64)")
    parser.add_argument("--weight", type=float, default=0.1, help="guidance weight (default 0.1)")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument(
        "--backend",
        metavar="B",
        help="of what the profile repeats, numpy or numba (default: numba where it is installed); "
        "what is verified always runs on numpy",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Audit, print, write; 0 if every check passed, else 1."""
    from qgf_ref.audit.report import (
        ESTIMATOR_NOTE,
        estimator_rows,
        unchecked_lines,
        verdict,
        write_report,
    )
    from qgf_ref.audit.run import audit
    from qgf_ref.tables import text_table

    chosen = [estimator(name) for name in args.estimators or learned_estimator_names()]
    checkpoint = load_checkpoint(args)
    estimators, absent = chosen, []
    if not args.estimators:
        present = checkpoint.auxiliary.present()
        estimators = [e for e in chosen if e.auxiliary is None or e.auxiliary in present]
        absent = [e for e in chosen if e not in estimators]
    obs = observations(args.obs, checkpoint, args.seed)
    if args.rows < 2:
        raise InputError(f"--rows must be at least 2, got {args.rows}")
    out = output_directory(args.out, ("report.html", "report.json"))
    print(f"checkpoint {checkpoint.source}")
    if absent:
        names = ", ".join(e.label for e in absent)
        print(f"left out, having no network here: {names} (see qgf-ref train-extra)")
    report = audit(
        checkpoint,
        obs,
        estimators,
        rows=args.rows,
        weight=args.weight,
        seed=args.seed,
        backend=args.backend,
    )
    print(verdict(report))
    for check in report.failed:
        print(f"  {check}")
    for line in unchecked_lines(report):
        print(textwrap.fill(line, 98, initial_indent="  ", subsequent_indent="    "))
    print()
    print(text_table(*estimator_rows(report)))
    print(textwrap.fill(ESTIMATOR_NOTE, 98))
    page = write_report(report, out)
    print(f"\n{report.seconds:.0f} s. Report: {page} (numbers: {out / 'report.json'})")
    own = "" if is_embedded(checkpoint) else f" --checkpoint {args.checkpoint} --obs {args.obs}"
    last = estimators[-1].label if args.estimators else "qgf_jacobian"
    study = f" --estimators {' '.join(args.estimators)}" if args.estimators else ""
    print(f"Next: qgf-ref explain{own} --estimator {last} --step 5  (one gradient, line by line)")
    print(f"      qgf-ref study bias-variance{study}  (how biased, against the exact guidance)")
    return 0 if report.passed else 1
