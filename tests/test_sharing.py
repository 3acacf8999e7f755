"""Threads that help each other: every part is done once, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from qgf_ref.sharing import Helpers, shared
from qgf_ref.threads import in_parallel


def together(*works: Callable[[], object]) -> None:
    helpers = Helpers(len(works))

    def run(work: Callable[[], object]) -> None:
        with helpers.at_work():
            work()

    in_parallel([partial(run, work) for work in works], helpers.stop)


def test_alone_the_parts_run_in_order() -> None:
    done: list[int] = []
    shared([partial(done.append, n) for n in range(5)])
    together(lambda: shared([partial(done.append, n) for n in range(5, 9)]))
    assert done == list(range(9))


@pytest.mark.parametrize("threads", [2, 4])
def test_every_part_is_done_once_and_idle_threads_take_some(threads: int) -> None:
    done: list[tuple[int, int]] = []

    def part(n: int) -> None:
        time.sleep(0.003)
        done.append((n, threading.get_ident()))

    def all_parts() -> None:
        for first in (0, 20):
            shared([partial(part, first + n) for n in range(20)])
            assert sorted(n for n, _ in done) == list(range(first + 20))

    together(all_parts, *[lambda: None] * (threads - 1))
    assert len({who for _, who in done}) == threads


def test_two_threads_with_parts_at_once() -> None:
    done: list[int] = []

    def parts(first: int) -> None:
        for k in range(30):
            shared([partial(done.append, first + 10 * k + n) for n in range(10)])

    together(partial(parts, 0), partial(parts, 300), lambda: None)
    assert sorted(done) == list(range(600))


def test_a_part_that_fails_is_raised_where_it_was_offered() -> None:
    done: list[int] = []
    offered = threading.Event()

    def part(n: int) -> None:
        offered.wait(5)
        if n == 1:
            raise OSError("part 1")
        time.sleep(0.01)
        done.append(n)

    def parts() -> None:
        offered.set()
        with pytest.raises(OSError, match="part 1"):
            shared([partial(part, n) for n in range(50)])
        before = list(done)
        time.sleep(0.03)
        assert done == before, "none is under way any more"
        assert len(before) < 50

    together(parts, lambda: None)


@pytest.mark.parametrize("who", [0, 1])
def test_nobody_waits_for_a_thread_that_failed(who: int) -> None:
    def fails() -> None:
        raise KeyboardInterrupt

    works: list[Callable[[], object]] = [lambda: None, lambda: None, lambda: None]
    works[who] = fails
    with pytest.raises(KeyboardInterrupt):
        together(*works)


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("left", ["begun", "done"])
def test_nobody_waits_for_a_part_that_ctrl_c_took(
    who: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes to the first thread when it has a part, but is not at it yet or any more."""
    run, offered = Helpers._run, threading.Event()

    def interrupted(self: Helpers, *arguments: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        if main and left == "begun":
            raise KeyboardInterrupt
        run(self, *arguments)
        if main:
            raise KeyboardInterrupt

    monkeypatch.setattr(Helpers, "_run", interrupted)

    def parts() -> None:
        offered.set()
        shared([partial(time.sleep, 0.003) for _ in range(20)])

    works: list[Callable[[], object]] = [lambda: offered.wait(5)] * 2
    works[who] = parts
    with pytest.raises(KeyboardInterrupt):
        together(*works)
