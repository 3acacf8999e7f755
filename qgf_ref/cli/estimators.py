"""qgf-ref estimators."""

from __future__ import annotations

import argparse

from qgf_ref.files import page
from qgf_ref.guidance.options.grammar import OPTIONS
from qgf_ref.guidance.registry import estimator, estimator_names

EXAMPLE = """example:
  qgf-ref estimators
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "estimators",
        help="list the gradient estimators",
        description="List the gradient estimators with their formulas.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print name and formula of each."""
    args.result = [{"name": n, "formula": estimator(n).summary} for n in estimator_names()]
    written = {f"+{o.word}={o.value}": o.summary for o in OPTIONS.values()}
    args.result += [{"name": name, "formula": summary} for name, summary in written.items()]
    for name in estimator_names():
        print(f"{name:26} {estimator(name).summary}")
    print("\nwith options, as many as wanted, the first innermost: qgf+interval=0.2,0.8+norm=1")
    for name, summary in written.items():
        print(f"{name:26} {summary}")
    print("\nyour.module:function       your own: (flow, step) → G; how, and what each costs:")
    print(f"{'':26} {page('guidance')}")
    return 0
