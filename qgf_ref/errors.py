"""Errors that a user can cause, told apart from defects of this package."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

EXTRAS = {
    "dask": "cluster",
    "dask_jobqueue": "cluster",
    "distributed": "cluster",
    "tomli": "cluster",
    "numba": "numba",
    "llvmlite": "numba",
    "gymnasium": "ogbench",
    "mujoco": "ogbench",
    "ogbench": "ogbench",
    "matplotlib": "plots",
    "PIL": "plots",
    "pytest": "test",
    "scipy": "studies",
    "tensorboardX": "tensorboard",
    "tensorstore": "orbax",
    "wandb": "wandb",
}
"""Packages that this one can do without, and the extra of pyproject.toml that brings each."""
OGBENCH_PYTHONS = "Python 3.10 to 3.12"
"""For which OGBench can be installed: its dm_control needs labmaze, of which there is no other."""


class QGFError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(QGFError, ValueError):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints it on one line, a long one sentence by sentence, and exits with code 2.
    """


class BudgetSpent(QGFError):
    """No more calls of a network are left of those that somebody allowed."""


class NonFiniteError(QGFError, FloatingPointError):
    """A sampler or a loss produced NaN or infinity; the message names step, quantity and row."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry; it lists those that are, nearest first."""
    shown = repr(name) if isinstance(name, str) else f"of type {type(name).__name__}"
    names = ", ".join(nearest_first(str(name), valid))
    return InputError(f"unknown {kind} {shown}; the valid ones are: {names}")


def nearest_first(name: str, valid: Iterable[str]) -> list[str]:
    """The valid names, up to three that look like `name` first, the others as in a dictionary."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names)
    return near + [other for other in names if other not in near]


def missing_package(module: str | None) -> InputError | None:
    """The error for an import of `module` that failed; None where no extra would bring it."""
    package = (module or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    extra = EXTRAS[package]
    if extra == "ogbench" and sys.version_info >= (3, 13):
        return InputError(
            f"{package} is not installed: OGBench exists for {OGBENCH_PYTHONS}, and this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}"
        )
    return InputError(f'{package} is not installed: pip install "qgf_ref[{extra}]"')


def reason(error: Exception) -> str:
    """Why reading or writing failed, without errno and the path that the message names anyway."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


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
