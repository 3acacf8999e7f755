"""Samplers on the GPU, ready to be called: which way a program runs, in which parts, as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.cupy.few_rows import FewRows
from qgf_ref.backends.cupy.many_rows import ManyRows
from qgf_ref.backends.cupy.tables import Tables
from qgf_ref.backends.cupy.weights import DeviceWeights, gather
from qgf_ref.backends.program.program import Kind
from qgf_ref.backends.program.registers import Code
from qgf_ref.backends.program.remembered import Remembered

SHARE = 0.8
"""Of the free memory, what a call's workspace may take; more rows run in several parts."""
KEPT = 4
"""Numbers of rows whose places and graphs a sampler keeps, all in one memory."""


class DeviceSampler:
    """A program with its weights. Calls may come from several threads, and run one by one.

    few_rows  whether few rows may run in one launch (`FewRows.fits`); the benchmark compares
    memory    the one workspace, as large as the largest call so far needed; None before the first
    """

    few_rows = True
    memory: Any = None

    def __init__(self, code: Code, weights: DeviceWeights, networks: Sequence[Any]) -> None:
        self.tables, self.device = Tables(code, weights, networks), weights.device
        self._ready: dict[tuple[int, int], _Ready] = {}

    def __call__(
        self,
        obs: Array,
        noise: Array,
        weight: Array | float,
        threads: int = 1,
        drawn: Array | None = None,
    ) -> tuple[Array, ...] | None:
        """The chain's results: (B, D), (E, B) or (B,) each; CuPy's if obs is, else NumPy's.

        obs (B/N, O), each for N consecutive rows; noise (B, D); weight () or (B, 1). None when
        something on the way was not finite. Raises InputError where the memory does not suffice.
        """
        del threads, drawn
        B, draws = len(noise), len(noise) // max(len(obs), 1)
        own, here = self.device.is_own(obs), self.device
        with here.working():
            column = self._column(weight, B)
            parts = [
                self._part(obs[a // draws : b // draws], noise[a:b], column[a:b], draws, own)
                for a, b in self._division(B, draws)
            ]
        if any(part is None for part in parts):
            return None
        if len(parts) == 1:
            return tuple(parts[0] or ())
        xp = here.xp if own else np
        kinds = [Kind(self.tables.code.registers[r]) for r in self.tables.code.results]
        if not parts:
            shapes = [self.tables.shape(r, 0) for r in self.tables.code.results]
            return tuple(xp.zeros(shape, noise.dtype) for shape in shapes)
        axes = [1 if kind == Kind.MEMBERS else 0 for kind in kinds]
        columns = zip(*parts, strict=True)
        return tuple(xp.concatenate(each, axis=a) for each, a in zip(columns, axes, strict=True))

    @property
    def bytes(self) -> int:
        """Of the workspace, and of the tables of what lies where in it."""
        tables = [ready.plan.offset_array for ready in self._ready.values()]
        return sum(int(array.nbytes) for array in (self.memory, *tables) if array is not None)

    def _column(self, weight: Any, B: int) -> Any:
        if self.device.is_own(weight):
            return self.device.xp.broadcast_to(weight.reshape(-1), (B,))
        return np.broadcast_to(np.ravel(weight), (B,))

    def _division(self, B: int, draws: int) -> list[tuple[int, int]]:
        """The rows of each part, whole observations: as many as the memory has room for."""
        if not B:
            return []
        known = self._ready.get((B, draws))
        if known is not None and known.plan.memory is not None:
            return [(0, B)]
        if self.few_rows and FewRows.fits(self.tables, B):
            return [(0, B)]
        most = SHARE * (self.device.memory()[0] + self.bytes)
        one, two = (ManyRows.bytes_of(self.tables, n * draws, draws) for n in (64, 128))
        each = max(1, (two - one) // 64)  # a part's bytes grow with its observations
        count = max(1, min(B // draws, int((most - (one - 64 * each)) // each)))
        parts = -(-(B // draws) // count)
        count = -(-(B // draws) // parts) * draws
        return [(a, min(a + count, B)) for a in range(0, B, count)]

    def _part(self, obs: Any, noise: Any, weight: Any, draws: int, own: bool) -> list[Any] | None:
        ready = self._prepared(len(noise), draws)
        ready.plan.load(obs, noise, weight)
        ready.start()
        if ready.plan.failed:
            return None
        results = ready.plan.results()
        return [result.copy() if own else result.get() for result in results]

    def _prepared(self, rows: int, draws: int) -> _Ready:
        ready = self._ready.pop((rows, draws), None)
        if ready is None:
            while len(self._ready) >= KEPT:
                self._ready.pop(next(iter(self._ready)))
            few = self.few_rows and FewRows.fits(self.tables, rows)
            ready = _Ready((FewRows if few else ManyRows)(self.tables, rows, draws))
        self._ready[rows, draws] = ready
        if self.memory is None or self.memory.nbytes < ready.plan.bytes:
            # graphs hold addresses, so that all go; the old memory first, to be part of the new one
            for each in self._ready.values():
                each.bind(None)
            self.memory = None
            self.memory = self.device.empty(ready.plan.bytes, np.uint8)
        if ready.plan.memory is not self.memory:
            ready.bind(self.memory)
        return ready


class _Ready:
    """A plan: run plainly once, then captured, then replayed."""

    def __init__(self, plan: ManyRows | FewRows) -> None:
        self.plan, self.calls, self.graph = plan, 0, None

    def bind(self, memory: Any) -> None:
        """Lie in this memory from now on; what was captured of another is forgotten."""
        self.plan.bind(memory)
        self.calls, self.graph = min(self.calls, 1), None

    def start(self) -> None:
        device = self.plan.device
        self.calls += 1
        if self.calls == 2 and isinstance(self.plan, ManyRows):
            # by now the kernels are compiled and cuBLAS has what it wants
            self.graph = device.captured(self.plan.run)
        if self.graph is None:
            self.plan.run()
        else:
            self.graph.launch(device.stream)


device_sampler: Remembered[DeviceWeights, DeviceSampler] = Remembered(gather, DeviceSampler)
"""The program of a chain on a flow, on the device: `Remembered.__call__`."""
tf32_sampler: Remembered[DeviceWeights, DeviceSampler] = Remembered(
    partial(gather, tf32=True), DeviceSampler
)
"""The same with cuBLAS's products in TF32."""
