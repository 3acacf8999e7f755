"""Threads at work beside each other: those that have nothing left to do help the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Condition, RLock, get_ident

Part = Callable[[], object]


@dataclass(eq=False)
class _Offer:
    """Parts of a thread's work that nobody has begun."""

    parts: deque[Part]
    errors: list[BaseException] = field(default_factory=list)


class Helpers:
    """So many threads. Each does its own work in `at_work`; of what it gives to `shared` meanwhile,
    those that have done theirs take parts.

    Ctrl-C may come to one of them at any moment, between any two lines: what others wait for is
    therefore by thread, and `stop`, on the way of every exception, puts it right.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._working = threads
        self._offers: list[_Offer] = []
        self._at: dict[int, _Offer] = {}  # by thread, whose part it has begun
        # entered itself: Condition.__enter__ is Python, and may be left with the lock taken
        self._lock = RLock()
        self._changed = Condition(self._lock)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around a thread's own work; then it helps until nobody is at work any more."""
        token = _helpers.set(self)
        try:
            yield
            with self._lock:
                self._working -= 1
                self._changed.notify_all()
            self._help()
        except BaseException:
            self.stop()
            raise
        finally:
            _helpers.reset(token)

    def stop(self) -> None:
        """Nobody waits any longer for work to come, nor for this thread's part."""
        with self._lock:
            self._working = 0
            self._at.pop(get_ident(), None)
            self._changed.notify_all()

    def done_by_all(self, parts: Sequence[Part]) -> None:
        """Run all parts, some in idle threads; return, or raise, when none is under way."""
        offer = _Offer(deque(parts))
        with self._lock:
            self._offers.append(offer)
            self._changed.notify_all()
        try:
            while (part := self._begun(offer)) is not None:
                self._run(offer, part)
        finally:
            self._withdraw(offer)
            with self._lock:
                self._changed.wait_for(lambda: not self._others_at(offer))
        if offer.errors:
            raise offer.errors[0]

    def _help(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._offers or self._working <= 0)
                if not self._offers:
                    return
                offer = self._offers[0]
                part = self._begun(offer)
            assert part is not None
            self._run(offer, part)

    def _others_at(self, offer: _Offer) -> bool:
        return any(at is offer and who != get_ident() for who, at in self._at.items())

    def _begun(self, offer: _Offer) -> Part | None:
        """The next part, which is under way from now on."""
        with self._lock:
            if not offer.parts:
                return None
            self._at[get_ident()] = offer
            part = offer.parts.popleft()
            if not offer.parts:
                self._withdraw(offer)
            return part

    def _run(self, offer: _Offer, part: Part) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001  raised where the parts were offered
            offer.errors.append(error)
            self._withdraw(offer)
        finally:
            with self._lock:
                self._at.pop(get_ident(), None)
                self._changed.notify_all()

    def _withdraw(self, offer: _Offer) -> None:
        """What is not begun is not done."""
        with self._lock:
            offer.parts.clear()
            if offer in self._offers:
                self._offers.remove(offer)


_helpers: ContextVar[Helpers | None] = ContextVar("qgf_ref_helpers", default=None)


def shared(parts: Sequence[Part]) -> None:
    """Run all parts, in this thread and in those of its `Helpers` that have nothing to do.

    The parts must leave Python's lock alone for most of their time, and share nothing of their own.
    Raises what the first failing part raised, when none is under way any more.
    """
    helpers = _helpers.get()
    if helpers is None or helpers.threads == 1 or len(parts) <= 1:
        for part in parts:
            part()
    else:
        helpers.done_by_all(parts)
