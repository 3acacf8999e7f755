"""Errors that a user can cause, told apart from defects of this package."""

from __future__ import annotations

from collections.abc import Iterable


class QGFError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(QGFError, ValueError):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints it on one line and exits with code 2.
    """


class NonFiniteError(QGFError, FloatingPointError):
    """A sampler or a loss produced NaN or infinity; the message names step, quantity and row."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry; it lists the names that are."""
    shown = repr(name) if isinstance(name, str) else f"of type {type(name).__name__}"
    return InputError(f"unknown {kind} {shown}; the valid ones are: {', '.join(sorted(valid))}")


def listing(names: Iterable[object], most: int = 12) -> str:
    """Names from an untrusted file for a message: on one line, printable, not too long or many."""
    shown: list[str] = []
    for name in names:
        if len(shown) == most:
            shown.append("…")
            break
        text = name if isinstance(name, str) else f"<{type(name).__name__}>"
        text = text if text.isprintable() else ascii(text)
        shown.append(text if len(text) <= 40 else text[:39] + "…")
    return ", ".join(shown) or "nothing"
