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


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry; it lists the names that are."""
    return InputError(f"unknown {kind} {name!r}; the valid ones are: {', '.join(sorted(valid))}")
