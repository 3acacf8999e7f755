"""Entry point of `qgf-ref` and `python -m qgf_ref`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from qgf_ref import __version__
from qgf_ref.agents.registry import agent_named
from qgf_ref.cli import (
    audit,
    bench,
    collect,
    compare,
    convert,
    estimators,
    evaluate,
    explain,
    study,
    trace,
    train,
    train_extra,
)
from qgf_ref.cli.parser import CommandParser
from qgf_ref.errors import InputError, QGFError, missing_package, reason
from qgf_ref.files import page
from qgf_ref.threads import VARIABLE, limited

BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


GROUPS: dict[str, tuple[Any, ...]] = {
    "is this estimator, this checkpoint right?": (audit, explain, estimators),
    "your own implementation": (compare, trace, convert, bench),
    "from data to a success rate": (collect, train, train_extra, evaluate),
    "how biased, how noisy, and what follows": (study,),
}
EXAMPLES = """examples:
  qgf-ref audit                                       the checkpoint inside the package
  qgf-ref compare --trace theirs.npz --estimator qgf --weight 0.1
  qgf-ref study noise --quick
  qgf-ref COMMAND --help                              its flags, and more examples"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = CommandParser(
        prog="qgf-ref",
        usage="qgf-ref [-h] [--version] COMMAND …",
        description="The ground truth for Q-Guided Flow: every gradient written by hand, checked "
        "against independent oracles, and compared with yours.",
    )
    top.add_argument("--version", action="version", version=f"qgf-ref {__version__}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog="qgf-ref", help=argparse.SUPPRESS
    )
    parts = []
    for title, modules in GROUPS.items():
        before = len(commands._choices_actions)
        for command in modules:
            command.add_parser(commands)
        lines = [f"  {c.dest:12}  {c.help}" for c in commands._choices_actions[before:]]
        parts.append("\n".join([f"{title}", *lines]))
    top.epilog = "\n\n".join([*parts, EXAMPLES, f"pages: {page('')}"])
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 2 on bad input, with one line that says what to do."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show ∇ still gets the numbers
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    args.words = sys.argv[1:] if argv is None else list(argv)
    try:
        here = str(Path.cwd())
        if here not in sys.path:
            # so that --estimator my_module:function finds a module beside the user
            sys.path.insert(0, here)
        if getattr(args, "agent", None) is not None:
            agent_named(args.agent)  # known from now on: files say that they are of it
        with one_blas_thread():
            code = int(args.run(args))
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"qgf-ref {args.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except QGFError as error:
        print(f"qgf-ref {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader (head, less) has gone; keep Python from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"qgf-ref {args.command}: {where}{reason(error)}", file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        lacking = missing_package(error.name)
        if lacking is None:
            raise
        print(f"qgf-ref {args.command}: {lacking}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; no file is left half written", file=sys.stderr)
        return INTERRUPTED


def one_blas_thread() -> AbstractContextManager[object]:
    """BLAS on one thread, unless the user's environment gives a number.

    On matrices as small as these more threads do not help, and where other processes, or a quota,
    want the cores, they spin. What has threads of its own (training, bench) sets them itself.
    """
    named = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", VARIABLE)
    if any(os.environ.get(name) for name in named):
        return nullcontext()
    return limited(1, "blas")


if __name__ == "__main__":
    sys.exit(main())
