"""Rounds in turn, their spread, and ratios within each round."""

from __future__ import annotations

import threading
import time

import pytest

from qgf_ref.bench.measure import Turn, interleaved, ratios, repetitions, settle, spread


def test_turns_are_interleaved() -> None:
    order: list[str] = []
    turns = [Turn("a", lambda: order.append("a"), 2), Turn("b", lambda: order.append("b"), 1)]
    found = list(interleaved(turns, 3, pause=0))
    assert order == ["a", "a", "b"] * 3
    assert [set(timing) for timing in found] == [{"a", "b"}] * 3


def test_seconds_are_of_one_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> None:
        nonlocal now
        now += next(seconds)

    monkeypatch.setattr("qgf_ref.bench.measure.time.perf_counter", lambda: now)
    seconds = iter([1.0, 2.0, 6.0, 3.0, 1.0, 2.0])
    turns = [Turn("mean", work, 3), Turn("fastest", work, 3, fastest=True)]
    assert list(interleaved(turns, 1, pause=0)) == [{"mean": 3.0, "fastest": 1.0}]


def test_ratios_are_taken_within_each_round() -> None:
    # the machine is ten times as slow in the second round: the ratio does not see it
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, {"a": 1.0, "b": 2.5}]
    assert ratios(rounds, "b", "a") == spread([2.0, 2.0, 2.5])
    assert ratios(rounds, "b", "a")["median"] == 2.0


def test_repetitions_fill_the_turn() -> None:
    assert [repetitions(s, 0.05) for s in (0.001, 0.04, 3.0)] == [50, 2, 1]
    assert repetitions(0.0, 0.05) == 100_000


def test_it_waits_for_a_busy_thread() -> None:
    stop = time.perf_counter() + 0.3

    def spin() -> None:
        while time.perf_counter() < stop:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    settle(patience=5)
    assert time.perf_counter() >= stop
    thread.join()
    started = time.perf_counter()
    settle(pause=0)
    assert time.perf_counter() - started < 1
