"""How much of everything `gpu.py` does, and how it times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def timed(
    starts: dict[str, Start], size: Size, seconds: float | None = None, turn: float = 0.02
) -> dict[str, Any]:
    """Seconds of one call, its result waited for, by contender; who fails says why.

    Contenders take turns of about `turn` seconds, until `seconds` (the size's) have passed.
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
    found: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for rounds in range(15):
        if rounds >= size.turns and time.perf_counter() - began > seconds:
            break
        for name, count in calls.items():
            since = time.perf_counter()
            for _ in range(count):
                starts[name]()
                wait()
            found[name].append((time.perf_counter() - since) / count)
    times = {name: spread(found[name]) | {"calls": calls[name]} for name in calls}
    ratios = {
        name: spread([theirs / own for own, theirs in zip(found["cupy"], found[name], strict=True)])
        for name in calls
        if name != "cupy" and "cupy" in calls
    }
    return {"seconds": times, "ratios": ratios, "failed": failed}
