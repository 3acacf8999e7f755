"""qgf-ref explain."""

from __future__ import annotations

import argparse
from pathlib import Path

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.cli.arguments import (
    add_checkpoint_arguments,
    load_checkpoint,
    natural,
    observations,
)
from qgf_ref.cli.checkpoint_options import path_or_name
from qgf_ref.cli.flow_arguments import add_flow_argument, built_flow
from qgf_ref.files import read_npz
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator

EXAMPLE = """example:
  qgf-ref explain --estimator qgf_jacobian --row 3 --step 5
  qgf-ref explain --estimator bptt --step 0 --brief
  qgf-ref explain --flow my_policy:build --estimator qgf_jacobian
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "explain",
        help="list every forward, jvp and vjp behind one gradient",
        description="Follow one row's guided chain to one denoising step and list, in order, every "
        "forward, jvp and vjp that went into the gradient there, with shapes, norms and gain; then "
        "re-derive the gradient from that list alone. With --flow a call of a network is one line.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser)
    add_flow_argument(parser)
    parser.add_argument("--estimator", default="qgf", metavar="E", help="default: qgf")
    parser.add_argument("--row", type=int, default=0, metavar="I", help="row of the observations")
    parser.add_argument("--step", type=int, default=0, metavar="K", help="denoising step")
    parser.add_argument(
        "--weight", type=float, default=0.1, metavar="W", help="of the chain so far"
    )
    parser.add_argument(
        "--obs",
        type=path_or_name,
        metavar="F.npz",
        help="an npz with `obs` and optionally `noise`, or the word normal",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the noise, unless it is given")
    parser.add_argument("--brief", action="store_true", help="one line for each network pass")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the explanation; 1 if the ledger or the definition contradicts the gradient."""
    from qgf_ref.audit.explain import explain

    chosen = estimator(args.estimator)
    subject: Checkpoint | GuidedFlow
    if args.flow is None:
        subject = load_checkpoint(args)
        obs = observations(args.obs, subject, args.seed)
        named = {"checkpoint": subject.source}
    else:
        subject, obs = built_flow(args)
        named = {"flow": args.flow}
    noise = None
    if args.obs not in (None, "normal"):
        noise = read_npz(Path(args.obs), (), only=("noise",)).get("noise")
    explanation = explain(
        subject,
        obs,
        estimator=chosen,
        row=args.row,
        index=args.step,
        weight=args.weight,
        noise=noise,
        seed=args.seed,
    )
    args.result = {
        **named,
        "estimator": chosen.label,
        "formula": chosen.summary,
        "row": explanation.row,
        "step": explanation.index,
        "time": explanation.time,
        "products": str(explanation.products),
        "operations": [
            {"operation": e.operation, "product": e.product, "where": e.where}
            for e in explanation.ledger.entries
        ],
        "gradient": explanation.gradient,
        "rederived": explanation.rederived,
        "defined": explanation.defined,
        "error": explanation.error,
        "complete": explanation.complete,
        "contradicted": explanation.contradicted,
    }
    print(*(f"{kind} {name}" for kind, name in named.items()))
    print(explanation.text(brief=args.brief))
    return 1 if explanation.contradicted else 0
