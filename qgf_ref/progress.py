"""Progress of a long job: the job says how far it is, and who starts it decides what is shown.

The library is silent unless told otherwise. Commands show a bar on a terminal, and in a log file
(or without tqdm) a line a minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol, TypeVar

T = TypeVar("T")
EVERY = 60.0
"""Seconds between two lines in a log file."""


class Progress(Protocol):
    """What a job tells."""

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""
        ...

    def say(self, what: str) -> None:
        """What is being done now, in a few words."""
        ...


class _Silent:
    def advance(self, steps: int = 1) -> None:
        """Nothing."""

    def say(self, what: str) -> None:
        """Nothing."""


SILENT: Progress = _Silent()


class _Bar:
    def __init__(self, total: int | None, unit: str, title: str, first: int, leave: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=total, unit=unit, desc=title or None, initial=first, leave=leave,
            dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, steps: int = 1) -> None:
        self.bar.update(steps)

    def say(self, what: str) -> None:
        self.bar.set_postfix_str(what, refresh=False)


class _Lines:
    def __init__(self, total: int | None, unit: str, title: str, first: int) -> None:
        self.done, self.total, self.unit, self.title = first, total, unit, title
        self.what, self.started = "", time.monotonic()
        self.told = self.started

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.told >= EVERY:
            self.told = now
            name = f"{self.title}: " if self.title else ""
            what = f", {self.what}" if self.what else ""
            of = "" if self.total is None else f" of {self.total}"
            line = f"{name}{self.unit} {self.done}{of}, {now - self.started:.0f} s{what}"
            print(line, file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        self.what = what


@contextmanager
def progress(
    total: int | None,
    unit: str = "step",
    *,
    title: str = "",
    first: int = 0,
    leave: bool = True,
    show: bool = True,
) -> Iterator[Progress]:
    """Shows a job of `total` steps, `first` of them done before; `leave`: the bar stays behind."""
    if not show:
        yield SILENT
    elif sys.stderr.isatty() and find_spec("tqdm") is not None:
        shown = _Bar(total, unit, title, first, leave)
        try:
            yield shown
        finally:
            shown.bar.close()
    else:
        yield _Lines(total, unit, title, first)


def wanted(show: bool | None) -> bool:
    """Whether a job of the library that may take minutes shows itself: as asked; not asked, where
    somebody watches it, on a terminal.
    """
    return sys.stderr.isatty() if show is None else show


def tracked(
    items: Iterable[T],
    total: int | None = None,
    unit: str = "step",
    *,
    title: str = "",
    leave: bool = True,
    show: bool = True,
) -> Iterator[T]:
    """The items, each counted when it has been dealt with."""
    with progress(total, unit, title=title, leave=leave, show=show) as job:
        for item in items:
            yield item
            job.advance()


def watched(items: Sequence[T], title: str, show: bool) -> Iterator[T]:
    """`tracked` of a part of a job: its bar goes when it is done."""
    return tracked(items, len(items), title=title, leave=False, show=show)
