"""Compiled samplers, ready to be called: programs, packed weights, workspaces, threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.barrier import ABORT
from qgf_ref.backends.numba.interpreter import SELDOM, run_block
from qgf_ref.backends.numba.kernels.cache import compiling
from qgf_ref.backends.numba.kernels.simd import TILE_ROWS, VECTOR_BYTES, panel_width
from qgf_ref.backends.numba.layout import (
    BATCH,
    CARRIED,
    DRAWS,
    FIRST,
    MEMBER,
    OBS_DIM,
    PLACES,
    PRE,
    PRE_BIAS,
    PRE_KERNEL,
    PRE_WIDE,
    PRECISE,
    ROWS,
    SCRATCH,
    TANGENTS,
    TEAM,
    WIDE,
    Layout,
    X,
    Z,
    height,
    lay_out,
)  # fmt: skip
from qgf_ref.backends.numba.weights import Weights, gather
from qgf_ref.backends.program.networks import time_constants
from qgf_ref.backends.program.program import FIELD, Kind
from qgf_ref.backends.program.registers import OP, Code
from qgf_ref.backends.program.remembered import Remembered
from qgf_ref.ops.time_embedding import DIM, Precision, angular_frequencies
from qgf_ref.threads import in_parallel

BLOCK_ROWS = 128
"""Rows of a block at most: its hidden values fit the second-level cache beside one panel."""
TEAM_ROWS = 32
"""Up to so many rows the threads share the columns of each product; beyond, the rows."""
TEAM_BYTES, TEAM_FEW = 48 << 20, 6
"""Weights from which a team pays, for up to `TEAM_FEW` rows; of more rows, in proportion less. That
is a call of 10 ms: the system may take as long to give the threads a core each."""
TEAM_PANELS = 2
"""Panels of the narrowest layer for each member: more members would only wait."""
WORKSPACE_BYTES = 64 << 20
"""Of one thread, where fewer rows in a block can keep to it."""


class CompiledSampler:
    """A program with its weights. Calls may come from several threads at once."""

    def __init__(self, code: Code, weights: Weights, times: Array, embedding: Precision) -> None:
        self.code, self.weights = code, weights
        self._kinds = np.array(code.registers, np.int64)
        self._results = np.array(code.results, np.int64)
        frequencies = angular_frequencies(DIM // 2, embedding).astype(np.float64)
        self._model = (
            weights.flat,
            times,
            weights.layers,
            weights.networks,
            weights.eps,
            frequencies,
        )
        self._places = np.zeros(PLACES, np.int64)
        self._places[[OBS_DIM, WIDE, PRE_WIDE, PRE_KERNEL, PRE_BIAS, PRECISE]] = (
            weights.obs_dim, weights.sizes.wide, weights.sizes.pre, weights.pre_kernel,
            weights.pre_bias, embedding == "exact",
        )  # fmt: skip
        kinds = [Kind(code.registers[register]) for register in code.results]
        self._answers = [(weights.sizes.width(kind), kind) for kind in kinds]
        self._columns = sum(width for width, _ in self._answers)
        self._seldom = True if np.isin(code.table[:, OP], SELDOM).any() else None
        more = ", with all instructions" if self._seldom else ""
        self._kernels = f"the sampler's kernels for {weights.flat.dtype}{more}"
        self._layouts: dict[int, Layout] = {}
        self._divisions: dict[tuple[int, int], tuple[int, int]] = {}
        self._idle: list[Array] = []
        self._last: list[_Block] = []

    def __call__(
        self,
        obs: Array,
        noise: Array,
        weight: Array | float,
        threads: int,
        drawn: Array | None = None,
    ) -> tuple[Array, ...] | None:
        """The chain's results: (B, D), (E, B) or (B,) each.

        obs (B/N, O), each for N consecutive rows; noise (B, D); weight () or (B, 1); drawn
        (n, B, D), the noise of an actor's n steps; obs, noise, drawn in the networks' dtype.
        None when something on the way was not finite.
        """
        B, dtype = len(noise), noise.dtype
        run = _Run(
            _flat(obs, dtype),
            _flat(noise, dtype),
            np.full(B, weight if isinstance(weight, float) else np.ravel(weight), dtype),
            _flat(noise[:0] if drawn is None else drawn, dtype),
            B // max(len(obs), 1),
            np.empty(B * self._columns, dtype),
            B,
            np.zeros(1, np.int64),
        )
        if B:
            divided = self._divisions.get((B, threads))
            if divided is None:
                divided = self._divisions[B, threads] = self.division(B, threads)
            rows, members = divided
            with compiling(self._kernels) as first:
                # a member of a team that compiles, and is interrupted, would be waited for
                if members > 1 and not first:
                    self._team(run, B, members)
                else:
                    self._apart(run, B, rows, threads)
        if run.status[0]:
            return None
        results, start = [], 0
        for width, kind in self._answers:
            part = run.answers[start : start + B * width]
            many = (B, width) if kind == Kind.ACTION else (width, B)
            results.append(part if kind == Kind.SCALAR else part.reshape(many))
            start += B * width
        return tuple(results)

    def division(self, B: int, threads: int) -> tuple[int, int]:
        """Rows of a block, and members of the team (1: threads take blocks one by one)."""
        if B <= TEAM_ROWS and self._bytes(B) <= WORKSPACE_BYTES:
            if threads == 1 or self.weights.flat.nbytes * max(1, B / TEAM_FEW) < TEAM_BYTES:
                return B, 1
            narrowest = min(width for widths in self.weights.sizes.hidden for width in widths)
            panels = -(-narrowest // panel_width(self._itemsize))
            return B, max(1, min(threads, int(panels / TEAM_PANELS)))
        blocks = -(-B // (BLOCK_ROWS * threads)) * threads
        rows = max(1, -(-B // max(blocks, 1) // TILE_ROWS)) * TILE_ROWS
        while rows > TILE_ROWS and self._bytes(rows) > WORKSPACE_BYTES:
            rows -= TILE_ROWS
        return max(1, min(rows, B)), 1

    @property
    def _itemsize(self) -> int:
        return int(self.weights.flat.itemsize)

    def _bytes(self, rows: int) -> int:
        return self._layout(rows).size * self._itemsize

    def _layout(self, rows: int) -> Layout:
        if rows not in self._layouts:
            line = VECTOR_BYTES // self._itemsize
            self._layouts[rows] = lay_out(self.code, self.weights.sizes, rows, line)
        return self._layouts[rows]

    def _apart(self, run: _Run, B: int, rows: int, threads: int) -> None:
        if rows >= B:
            self._alone(run, B)
            return
        firsts = iter(range(0, B, rows))
        counters, shared = np.zeros(16, np.int64), np.zeros(1, run.noise.dtype)

        def work() -> None:
            space = self._take(rows)
            for first in firsts:
                count = min(rows, B - first)
                self._run(run, space, rows, first, count, counters, shared, 0, 1)
            self._idle.append(space)

        def stop() -> None:
            counters[ABORT] = 1
            list(firsts)

        in_parallel([work] * min(threads, -(-B // rows)), stop)

    def _alone(self, run: _Run, B: int) -> None:
        """All rows in one block: what the last such call was given, but for its inputs, again."""
        try:
            block = self._last.pop()
        except IndexError:
            block = None
        if block is None or block.rows != B:
            if block is not None:
                self._idle.append(block.memory[0])
            block = self._block(B, self._take(B), np.zeros(16, np.int64), run.noise[:1].copy())
            block.at[ROWS], block.at[TEAM] = B, 1
        block.at[DRAWS], block.at[BATCH] = run.draws, B
        self._go(run, block)
        self._last.append(block)

    def _team(self, run: _Run, B: int, members: int) -> None:
        counters = np.zeros(8 * (1 + members), np.int64)
        shared = np.zeros(2 * height(self.code) * B * self.weights.sizes.wide, run.noise.dtype)
        # before any member starts, since one that failed would be waited for
        spaces = [self._take(B) for _ in range(members)]

        def work(member: int) -> None:
            self._run(run, spaces[member], B, 0, B, counters, shared, member, members)

        def stop() -> None:
            counters[ABORT] = 1

        with _one_team():
            in_parallel([partial(work, member) for member in range(members)], stop)
        self._idle.extend(spaces)

    def _take(self, rows: int) -> Array:
        """A workspace for blocks of that many rows."""
        size = self._layout(rows).size
        try:
            work = self._idle.pop()
        except IndexError:
            work = np.zeros(0, self.weights.flat.dtype)
        return work if len(work) >= size else np.zeros(size, self.weights.flat.dtype)

    def _run(
        self,
        run: _Run,
        work: Array,
        capacity: int,
        first: int,
        rows: int,
        counters: Array,
        shared: Array,
        member: int,
        members: int,
    ) -> None:
        block = self._block(capacity, work, counters, shared)
        at = block.at
        at[DRAWS], at[BATCH], at[FIRST], at[ROWS] = run.draws, run.batch, first, rows
        at[MEMBER], at[TEAM] = member, members
        self._go(run, block)

    def _block(self, capacity: int, work: Array, counters: Array, shared: Array) -> _Block:
        layout, at, code = self._layout(capacity), self._places.copy(), self.code
        # one by one: as a list of indices it would take as long as a small network
        at[X], at[Z], at[SCRATCH] = layout.x, layout.z, layout.scratch
        at[PRE], at[TANGENTS], at[CARRIED] = layout.pre, layout.tangents, layout.carried
        program = code.table, code.numbers, layout.registers, self._kinds, self._results
        memory = work, shared, counters, np.zeros(capacity, np.int64)
        return _Block(capacity, program, at, memory)

    def _go(self, run: _Run, block: _Block) -> None:
        inputs = run.obs, run.noise, run.weight, run.drawn
        run_block(
            block.program, self._model, block.at, inputs, block.memory, run.answers, run.status,
            self._seldom,
        )  # fmt: skip


class _Run(NamedTuple):
    """Inputs and answers of one call, flat; `draws` rows for each observation, `batch` in all.

    status (1,) becomes 1 when something is not finite.
    """

    obs: Array
    noise: Array
    weight: Array
    drawn: Array
    draws: int
    answers: Array
    batch: int
    status: Array


class _Block(NamedTuple):
    """What `run_block` is given beside a call's inputs and answers; `rows` at most."""

    rows: int
    program: tuple[Array, ...]
    at: Array
    memory: tuple[Array, ...]


def _flat(x: Array, dtype: np.dtype[Any]) -> Array:
    """x as the compiled code knows it: contiguous and writeable, which it does not use."""
    flat = np.ascontiguousarray(x, dtype).ravel()
    return flat if flat.flags.writeable else flat.copy()


_locks = {"team": Lock()}


def _one_team() -> Lock:
    """Members of two teams that wait for each other's threads would wait for ever."""
    return _locks["team"]


if hasattr(os, "register_at_fork"):
    # another thread may have held it at that moment, and is not there to let it go
    os.register_at_fork(after_in_child=lambda: _locks.update(team=Lock()))


def _make(code: Code, weights: Weights, networks: Sequence[Any]) -> CompiledSampler:
    times = time_constants(networks, code, weights.sizes.wide)
    return CompiledSampler(code, weights, times, networks[FIELD].embedding)


compiled_sampler: Remembered[Weights, CompiledSampler] = Remembered(gather, _make)
"""The program of a chain on a flow, compiled: `Remembered.__call__`."""
