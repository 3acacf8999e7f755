"""A user's own function, named as "package.module:function": estimators and peers."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import SkipTest

from qgf_ref.contracts import Broken, Unchecked
from qgf_ref.errors import InputError, QGFError, listing

OWN = str(Path(__file__).parent)
MOST = 200
"""Letters that are quoted of a message; some of JAX fill a page."""


def import_named(spec: str, what: str) -> Any:
    """What `spec` names. `what` is what it should be, for the message.

    Raises InputError when the form is another, the import fails, or the module has no such name.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        raise InputError(f"{what} {spec!r} is not of the form package.module:function")
    module_name, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # of a script that reads its arguments
        raise InputError(f"{what} {spec!r}: cannot import it: {error_summary(error)}") from error
    if not hasattr(module, attribute):
        names = listing(n for n in vars(module) if not n.startswith("_"))
        raise InputError(f"{what} {spec!r}: {module_name} has no {attribute!r}; it has: {names}")
    return getattr(module, attribute)


def require_function(value: Any, name: str, takes: str) -> None:
    """Raise InputError unless `value` can be called; `takes`: with what, and what it returns."""
    if not callable(value):
        raise InputError(f"{name} must be a function {takes}, got {type(value).__name__}")


@contextmanager
def told_whose(whose: str, when: str) -> Iterator[None]:
    """Raise InputError from whatever somebody's code raises meanwhile: whose it is, when it was
    asked, and the line. What this package itself raises, or a test that skips, goes through.

    whose  "your jvp"; when  "with x of shape (5,)"
    """
    try:
        yield
    except (QGFError, Broken, Unchecked, SkipTest):
        raise
    except Exception as error:
        raise InputError(
            f"{whose} raised {type(error).__name__} {when}: {error_said(error)}"
        ) from error


def error_summary(error: BaseException) -> str:
    """Kind, message, and where in the user's file, on one line."""
    return f"{type(error).__name__}: {error_said(error)}"


def error_said(error: BaseException) -> str:
    """Message, and where in the user's file, on one line.

    The innermost frame outside of installed packages, if there is one, and never our own.
    """
    frames = [
        f for f in traceback.extract_tb(error.__traceback__)
        if OWN not in f.filename and "importlib" not in f.filename
    ]  # fmt: skip
    theirs = [f for f in frames if "-packages" not in f.filename] or frames
    where = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    said = " ".join(str(error).split())
    return f"{said if len(said) <= MOST else said[: MOST - 1] + '…'}{where}"
