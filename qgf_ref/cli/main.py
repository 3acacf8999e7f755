"""Entry point of `qgf-ref` and `python -m qgf_ref`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
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
    goals,
    study,
    sweep,
    trace,
    train,
    train_extra,
)
from qgf_ref.cli.answers import BAD_INPUT, answered
from qgf_ref.cli.output import LastingStream, as_json
from qgf_ref.cli.parser import CommandParser
from qgf_ref.errors import reason
from qgf_ref.files import no_empty_directories, page
from qgf_ref.plotting import own_look
from qgf_ref.threads import one_blas_thread

BROKEN_PIPE = 141


GROUPS: dict[str, tuple[Any, ...]] = {
    "is this estimator, this checkpoint right?": (audit, explain, estimators),
    "your own implementation": (compare, trace, convert, bench),
    "from data to a success rate": (collect, goals, train, train_extra, evaluate, sweep),
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
    for command in commands.choices.values():
        command.set_defaults(result=None)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    top.epilog = "\n\n".join([*parts, EXAMPLES, f"pages: {page('')}"])
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 2 on bad input, saying what is wrong and what to do.

    What the command writes is written, whoever reads what it prints (`LastingStream`).
    """
    out = LastingStream(sys.stdout)
    with redirect_stdout(out), redirect_stderr(LastingStream(sys.stderr)):
        words = sys.argv[1:] if argv is None else list(argv)
        name = f"qgf-ref {words[0]}" if words else "qgf-ref"
        code = answered(name, lambda: _run(words))
        out.flush()
        if isinstance(out.error, BrokenPipeError) or (out.error and os.name == "nt"):
            return code or BROKEN_PIPE  # it was head, or less, and it has what it wanted
        if out.error:
            print(f"{name}: cannot print: {reason(out.error)}", file=sys.stderr)
            return code or BAD_INPUT
        return code


def _run(words: list[str]) -> int:
    args = parser().parse_args(words)
    args.words = words
    with suppress(OSError):  # a directory that was removed meanwhile
        if (here := str(Path.cwd())) not in sys.path:
            # so that --estimator my_module:function finds a module beside the user
            sys.path.insert(0, here)
    if getattr(args, "agent", None) is not None:
        agent_named(args.agent)  # known from now on: files say that they are of it
    with one_blas_thread(later=True), own_look(), no_empty_directories():
        if not getattr(args, "json", False):
            return int(args.run(args))
        with redirect_stdout(io.StringIO()):
            code = int(args.run(args))
        print(as_json(args.result))
        return code


if __name__ == "__main__":
    sys.exit(main())
