"""qgf-ref train-extra: `qgf-ref train --agent NETWORK --base DIR` under its older name."""

from __future__ import annotations

import argparse
from pathlib import Path

from qgf_ref.cli.checkpoint_options import path_or_name
from qgf_ref.cli.train import CHANGEABLE, train_beside
from qgf_ref.errors import unknown_name
from qgf_ref.nets.auxiliary import AUXILIARY

EXAMPLE = """networks:
  robust_q   a critic of noisy actions, for the estimator robust_q
  cfgrl      a flow conditioned on the sign of the advantage, for the estimator cfgrl
  distill    the flow's endpoint, for the estimators qgf_distill and qgf_jacobian_distill

example:
  qgf-ref train-extra cfgrl --run runs/cube1
  qgf-ref evaluate --checkpoint runs/cube1 --methods bc qgf cfgrl

Ctrl-C saves; the same command continues, bit for bit on the same machine, and with more --updates
goes on beyond what was planned.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "train-extra",
        help="train a network that an estimator needs beside those of a run",
        description="Train an auxiliary network against the networks of a finished run, which stay "
        "as they are. Whatever has no flag here is the run's. It is written into the run's "
        "directory, where every command that takes a checkpoint finds it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", metavar="NETWORK", help=", ".join(AUXILIARY))
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", dest="directory", help="of qgf-ref train"
    )
    parser.add_argument("--updates", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--batch", type=int, default=256, metavar="B", help="rows (default 256)")
    parser.add_argument(
        "--learning-rate", type=float, default=3e-4, metavar="X", help="of Adam (default 0.0003)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of parameters, batches and noise (default 0)"
    )
    parser.add_argument(
        "--hidden", type=int, nargs="+", metavar="F", help="hidden layers (default: the run's)"
    )
    parser.add_argument(
        "--data", type=path_or_name, metavar="P", help="where the data set is now, if it has moved"
    )
    parser.add_argument(
        "--backend", default="numba", metavar="B", help="numba (default), numpy, cupy, cupy:tf32"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="as of qgf-ref train")
    parser.add_argument(
        "--log-every", type=int, metavar="N", help="updates between rows of NETWORK.csv"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 130 or 143 when a signal ended it."""
    if args.network not in AUXILIARY:
        raise unknown_name("auxiliary network", args.network, AUXILIARY)
    given = {name: getattr(args, name) for name in CHANGEABLE}
    given = {name: value for name, value in given.items() if value is not None}
    return train_beside(args, args.network, args.directory, given)
