"""Rounds A B A B …: every contender in turn, so that a slow second of the machine hits all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

PAUSE, PATIENCE = 0.02, 1.0
"""Seconds between turns, at least and at most."""


class Turn(NamedTuple):
    """What one contender does in a round.

    fastest  the round's time is that of the fastest repetition (a ceiling), not of the mean
    """

    name: str
    run: Callable[[], object]
    repetitions: int
    fastest: bool = False


def timed(turn: Turn) -> float:
    """Seconds for one repetition, in one round."""
    if turn.fastest:
        return min(_seconds(turn.run, 1) for _ in range(turn.repetitions))
    return _seconds(turn.run, turn.repetitions)


def _seconds(run: Callable[[], object], repetitions: int) -> float:
    started = time.perf_counter()
    for _ in range(repetitions):
        run()
    return (time.perf_counter() - started) / repetitions


def repetitions(seconds: float, target: float) -> int:
    """How many runs of `seconds` last `target` seconds."""
    return max(1, min(100_000, math.ceil(target / max(seconds, 1e-7))))


def settle(pause: float = PAUSE, patience: float = PATIENCE) -> None:
    """Wait until no thread of this process is busy.

    Threads of BLAS spin for as long as 0.1 s after their work, and take half a core from the next
    contender: one with two threads was measured at half its speed.
    """
    end = time.perf_counter() + patience
    while True:
        busy = time.process_time()
        time.sleep(pause)
        if time.process_time() - busy <= 0.1 * pause + 1e-4 or time.perf_counter() > end:
            return


def interleaved(
    turns: Sequence[Turn], rounds: int, pause: float = PAUSE
) -> Iterator[dict[str, float]]:
    """Seconds of one repetition by name, round by round."""
    for _ in range(rounds):
        times = {}
        for turn in turns:
            settle(pause)
            times[turn.name] = timed(turn)
        yield times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, extremes."""
    low, median, high = (float(x) for x in np.percentile(values, (25, 50, 75)))
    return {
        "median": median, "q25": low, "q75": high, "min": min(values), "max": max(values),
    }  # fmt: skip


def ratios(rounds: Sequence[dict[str, float]], slow: str, fast: str) -> dict[str, float]:
    """How many times as long `slow` takes as `fast`: taken within each round, then spread."""
    return spread([times[slow] / times[fast] for times in rounds])
