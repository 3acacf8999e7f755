"""qgf-ref train-extra."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.nets.auxiliary import AUXILIARY
from qgf_ref.training.interruption import signal_name

if TYPE_CHECKING:
    from qgf_ref.training.extra import ExtraTrained

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
    parser.add_argument("--data", metavar="P", help="where the data set is now, if it has moved")
    parser.add_argument("--backend", default="numba", metavar="B", help="numba (default) or numpy")
    parser.add_argument("--threads", type=int, metavar="N", help="as of qgf-ref train")
    parser.add_argument(
        "--log-every", type=int, metavar="N", help="updates between rows of NETWORK.csv"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 130 or 143 when a signal ended it."""
    from qgf_ref.training.extra import train_extra

    given = {
        "updates": args.updates,
        "batch": args.batch,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "hidden": None if args.hidden is None else tuple(args.hidden),
        "data": None if args.data is None else str(Path(args.data).expanduser().resolve()),
        "backend": args.backend,
        "threads": args.threads,
        "log_every": args.log_every,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return _report(train_extra(args.network, args.directory, changes), args.updates)


def _report(trained: ExtraTrained, updates: int) -> int:
    where, name = trained.directory, trained.name
    methods = " ".join(n for n in estimator_names() if estimator(n).auxiliary == name)
    if trained.signal is not None:
        print(
            f"{signal_name(trained.signal)} after update {trained.updates} of {updates}; all is "
            f"saved in {where}\nNext: give the same command to continue"
        )
        return 128 + trained.signal
    if trained.rows:
        print("  ".join(f"{key} {value:.5g}" for key, value in trained.rows[-1].items()))
    print(f"{name}.safetensors, {name}.csv and {name}.json are in {where}")
    print(f"Next: qgf-ref evaluate --checkpoint {where} --methods bc qgf {methods}")
    return 0
