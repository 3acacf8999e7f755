"""Ctrl-C and SIGTERM as a request that the loop honours between two updates."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While active, the first SIGINT or SIGTERM sets `signal`; a second one interrupts at once, or
    at the end of a `deferred` block, so that saving is never cut short.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._deferring = False
        self._impatient = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that a second signal only interrupts when it is over."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._impatient:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is None:
            self.signal = number
        elif self._deferring:
            self._impatient = True
        else:
            raise KeyboardInterrupt


def signal_name(number: int) -> str:
    """SIGINT, SIGTERM, … for messages."""
    return signal.Signals(number).name
