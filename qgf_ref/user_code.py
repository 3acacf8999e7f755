"""A user's own function, named as "package.module:function": estimators and peers."""

from __future__ import annotations

import importlib
import re
import traceback
from typing import Any

from qgf_ref.errors import InputError, listing


def import_named(spec: str, what: str) -> Any:
    """What `spec` names. `what` is what it should be, for the message.

    Raises InputError when the form is another, the import fails, or the module has no such name.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        raise InputError(f"{what} {spec!r} is not of the form package.module:function")
    module_name, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(f"{what} {spec!r}: cannot import it: {error_summary(error)}") from error
    if not hasattr(module, attribute):
        names = listing(n for n in vars(module) if not n.startswith("_"))
        raise InputError(f"{what} {spec!r}: {module_name} has no {attribute!r}; it has: {names}")
    return getattr(module, attribute)


def error_summary(error: Exception) -> str:
    """Kind, message, and where in the user's file, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
