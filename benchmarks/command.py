"""How the commands in this folder end: in one sentence and an exit code, as `qgf-ref` does."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qgf_ref.cli.answers import answered
from qgf_ref.errors import InputError, reason

PATIENCE = 5.0
"""Seconds that a child has for ending by itself after Ctrl-C, which a terminal sends it, too."""


def ended(main: Callable[[], int | None]) -> int:
    """What a program exits with: `main`'s code, None being 0; 2 on bad input, 130 on Ctrl-C."""
    return answered(Path(sys.argv[0]).name, lambda: main() or 0)


def code_of(line: Sequence[str], cwd: Path) -> int:
    """The exit code of a child that prints where we do. Interrupted, it is not left behind: it may
    end in its own way, so that it keeps what it can.
    """
    with subprocess.Popen(line, cwd=cwd) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:  # only we were told
                child.send_signal(signal.SIGINT)
                child.wait()
            raise


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def content_of(path: Path) -> dict[str, Any]:
    """What an earlier run of ours wrote as JSON; {} where there is none. Raises InputError."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} ({reason(error)}): remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no file of ours: remove it")
    return content
