"""How much of everything `gpu.py` does, and how it times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qgf_ref.backends.cupy.device import device

Start = Callable[[], Any]
"""Starts a contender's work; who times it waits for the device."""


@dataclass(frozen=True)
class Size:
    """How much of everything.

    networks, batches                    of `sampler`; the cells with targets first
    gradient_network, gradient_batches   of `gradients`
    rows, large                          of `check`; and the network that it takes besides, or ""
    modes                                of PyTorch
    seconds, training_seconds, turns     of a cell; of a preset; turns of each contender at least
    copy, product                        numbers that are copied; rows of a square matrix
    steps, hidden, batch                 of the training data; instead of the preset's, if not None
    platform                             where JAX and PyTorch run: "cuda", and "cpu" without a GPU
    seed                                 of the networks and inputs of `check`; None: the clock's
    """

    networks: tuple[str, ...] = ("4x1024", "3x256", "4x512")
    batches: tuple[int, ...] = (1, 16384, 1024, 64, 65536)
    gradient_network: str = "4x512"
    gradient_batches: tuple[int, ...] = (1, 64, 1024)
    rows: tuple[int, ...] = (1, 3, 16, 17, 257)
    large: str = "4x512"
    modes: tuple[str, ...] = ("eager", "compiled", "graphs")
    seconds: float = 1.5
    training_seconds: float = 12.0
    copy: int = 1 << 28
    product: int = 8192
    steps: int = 500_000
    hidden: tuple[int, ...] | None = None
    batch: int | None = None
    platform: str = "cuda"
    turns: int = 3
    seed: int | None = None


SIZES = {
    "full": Size(),
    "smoke": Size(
        ("3x256",), (1, 64), "3x256", (1,), large="", seconds=0.3, training_seconds=2,
        copy=1 << 24, product=1024, steps=10_000, hidden=(64, 64),
    ),
    "dry": Size(
        ("2x8",), (1, 20), "2x8", (2,), (2, 17), "", ("eager",), 0.01, 0.01, 1 << 10, 24, 200,
        (8, 8), 12, "cpu", 1,
    ),
}  # fmt: skip
"""full; smoke: on a GPU, does everything run? dry: the same where a processor stands for it."""


def wait() -> None:
    """Until the device has done everything, whoever asked for it."""
    device().xp.cuda.Device().synchronize()


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def told(error: BaseException) -> str:
    """Why a contender failed."""
    return f"{type(error).__name__}: {str(error)[:200]}"


class Clock(Protocol):
    """CUDA events on the stream on which a contender's caller is: times that the device took."""

    def mark(self) -> Any:
        """An event, recorded now."""
        ...

    def between(self, first: Any, last: Any) -> float:
        """Seconds from one to the other, both past."""
        ...


class OwnClock:
    """Of CuPy's current stream, which our own stream waits for and is waited for by."""

    def __init__(self) -> None:
        self.cuda = device().xp.cuda

    def mark(self) -> Any:
        """An event."""
        event = self.cuda.Event()
        event.record(self.cuda.get_current_stream())
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds."""
        return float(self.cuda.get_elapsed_time(first, last)) / 1e3


CLOCKS = {
    "seconds": "host's clock: a call and the wait for its result",
    "queued": "host's clock: calls started one after another, waited for once, by their number",
    "events": "CUDA events before and after a call on the caller's stream",
}
"""How a contender's time is measured. JAX's streams are out of reach: of it there are the first
two. Ratios are of one clock on both sides."""


def timed(
    starts: dict[str, Start], size: Size, seconds: float | None = None, turn: float = 0.02,
    clocks: Mapping[str, Clock] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The time of one call by contender, by each of the `CLOCKS`; who fails says why.

    Contenders take turns of about `turn` seconds for each clock, until `seconds` (the size's) have
    passed. clocks: of those whose streams are in reach.
    Returns seconds, queued, events: {contender: spread}; ratios, queued_ratios, event_ratios: how
    many times as long as "cupy" the others take, by that clock; failed.
    """
    seconds = size.seconds if seconds is None else seconds
    calls: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, start in starts.items():
        try:
            for _ in range(3):  # compiled, captured, then as it will be
                began = time.perf_counter()
                start()
                wait()
            calls[name] = max(1, min(200, int(turn / (time.perf_counter() - began))))
        except Exception as error:  # noqa: BLE001  the others are timed all the same
            failed[name] = told(error)
    found: dict[str, dict[str, list[float]]] = {clock: {} for clock in CLOCKS}
    began = time.perf_counter()
    for rounds in range(15):
        if rounds >= size.turns and time.perf_counter() - began > seconds:
            break
        for name, count in calls.items():
            for clock, value in one_turn(starts[name], count, (clocks or {}).get(name)).items():
                found[clock].setdefault(name, []).append(value)
    times = {clock: {name: spread(x) for name, x in of.items()} for clock, of in found.items()}
    for name, own in times["seconds"].items():
        own["calls"] = calls[name]
    ratios = {"ratios": "seconds", "queued_ratios": "queued", "event_ratios": "events"}
    return {
        **times,
        **{name: _ratios(found[clock]) for name, clock in ratios.items()},
        "failed": failed,
    }


def one_turn(start: Start, count: int, clock: Clock | None) -> dict[str, float]:
    """The mean time of `count` calls by each clock that there is.

    Where one call fills the turn the clocks run together, and nothing is queued: an event takes the
    host some microseconds, which a short call would feel.
    """
    since = time.perf_counter()
    first = clock.mark() if clock is not None and count == 1 else None
    for _ in range(count):
        start()
        if first is not None and clock is not None:
            last = clock.mark()
        wait()
    told = {"seconds": (time.perf_counter() - since) / count}
    if first is not None and clock is not None:
        return {**told, "queued": told["seconds"], "events": clock.between(first, last)}
    if count == 1:
        return {**told, "queued": told["seconds"]}
    since = time.perf_counter()
    for _ in range(count):
        start()
    wait()
    told["queued"] = (time.perf_counter() - since) / count
    if clock is not None:
        marks = []
        for _ in range(count):
            before = clock.mark()
            start()
            marks.append((before, clock.mark()))
            wait()
        told["events"] = sum(clock.between(*pair) for pair in marks) / count
    return told


def _ratios(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By contender, how many times as long as "cupy" in the same turn."""
    if "cupy" not in found:
        return {}
    return {
        name: spread([theirs / own for own, theirs in zip(found["cupy"], times, strict=True)])
        for name, times in found.items()
        if name != "cupy"
    }
