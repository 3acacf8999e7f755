"""Compiled samplers, ready to be called: programs, packed weights, workspaces, threads.

Both are remembered by the identity of the networks' parameters, for as long as those live. Arrays
of parameters must not be changed in place: the packed copies would not follow.
"""

from __future__ import annotations

import math
import os
import weakref
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.numba.barrier import ABORT
from qgf_ref.backends.numba.interpreter import run_block
from qgf_ref.backends.numba.kernels.cache import compiling
from qgf_ref.backends.numba.kernels.simd import TILE_ROWS, VECTOR_BYTES, panel_width
from qgf_ref.backends.numba.layout import Code, Layout, assign, lay_out
from qgf_ref.backends.numba.weights import Weights, gather, time_constants
from qgf_ref.backends.program.program import Kind
from qgf_ref.backends.program.record import Chain, NotRecordable, Shape, record
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.velocity import MLPVelocity
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
KEPT = 16
"""Compiled samplers, and packed networks, that are remembered."""


def compiled_sampler(flow: GuidedFlow, chain: Chain, key: Any) -> CompiledSampler:
    """The program of `chain` on this flow; the same object for the same flow and key.

    key  tells chains apart: hashable; chains with equal keys must be the same
    Raises NotRecordable when there is no program for it.
    """
    field, critic = flow.field, flow.critic
    # exactly these: what a subclass does otherwise, the interpreter does not know
    if (
        type(field) is not MLPVelocity
        or field.inputs != MLPVelocity.inputs
        or type(critic) is not MLPCritic
        or type(flow) is not GuidedFlow
    ):
        raise NotRecordable(f"a {type(field).__name__} with a {type(critic).__name__}")
    shape = Shape(
        field.action_dim,
        critic.params.ensemble or 1,
        critic.aggregation,
        flow.denoise_steps,
        flow.action_bound,
        flow.time_precision,
    )
    networks = (id(field.params), id(critic.params), field.options, critic.options)
    wanted = (*networks, field.embedding, shape, key)
    owners = field.params, critic.params
    try:
        found = _samplers.get(wanted)
    except TypeError:
        raise NotRecordable("an estimator that is not hashable") from None
    if found is None:
        weights = _networks.get(networks)
        if weights is None:
            weights = gather(field, critic)
            _remember(_networks, networks, weights, owners)
        program = record(shape, chain)
        times = time_constants(field, program.times)
        found = CompiledSampler(assign(program), weights, times)
        _remember(_samplers, wanted, found, owners)
    return found


class CompiledSampler:
    """A program with its weights. Calls may come from several threads at once."""

    def __init__(self, code: Code, weights: Weights, times: Array) -> None:
        self.code, self.weights, self.times = code, weights, times
        self._kinds = np.array([int(kind) for kind in code.registers], np.int64)
        self._results = np.array(code.results, np.int64)
        self._layouts: dict[int, Layout] = {}
        self._idle: list[Array] = []

    def __call__(
        self, obs: Array, noise: Array, weight: Array | float, threads: int
    ) -> tuple[Array, ...] | None:
        """The chain's results: (B, D), (E, B) or (B,) each.

        obs (B/N, O), each for N consecutive rows; noise (B, D); weight () or (B, 1); obs and
        noise in the networks' dtype. None when something on the way was not finite.
        """
        B, dtype = len(noise), noise.dtype
        shapes = [self._shape(self.code.registers[register], B) for register in self.code.results]
        sizes = [math.prod(shape) for shape in shapes]
        run = _Run(
            _flat(obs, dtype),
            _flat(noise, dtype),
            _flat(np.broadcast_to(np.ravel(weight), B), dtype),
            B // max(len(obs), 1),
            np.empty(sum(sizes), dtype),
            B,
            np.zeros(1, np.int64),
        )
        if B:
            rows, members = self.division(B, threads)
            with compiling(f"the sampler's kernels for {dtype}") as first:
                # a member of a team that compiles, and is interrupted, would be waited for
                if members > 1 and not first:
                    self._team(run, B, members)
                else:
                    self._apart(run, B, rows, threads)
        if run.status[0]:
            return None
        parts = np.split(run.answers, np.cumsum(sizes)[:-1])
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def _shape(self, kind: Kind, B: int) -> tuple[int, ...]:
        sizes = self.weights.sizes
        return {Kind.ACTION: (B, sizes.action), Kind.MEMBERS: (sizes.members, B)}.get(kind, (B,))

    def division(self, B: int, threads: int) -> tuple[int, int]:
        """Rows of a block, and members of the team (1: threads take blocks one by one)."""
        if B <= TEAM_ROWS and self._bytes(B) <= WORKSPACE_BYTES:
            sizes = self.weights.sizes
            narrowest = min(*sizes.hidden[0], *sizes.hidden[1])
            panels = -(-narrowest // panel_width(self._itemsize))
            enough = self.weights.flat.nbytes * max(1, B / TEAM_FEW) >= TEAM_BYTES
            return B, max(1, min(threads, int(panels / TEAM_PANELS))) if enough else 1
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

    def _team(self, run: _Run, B: int, members: int) -> None:
        counters = np.zeros(8 * (1 + members), np.int64)
        shared = np.zeros(2 * B * self.weights.sizes.wide, run.noise.dtype)
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
        layout, w = self._layout(capacity), self.weights
        places = np.array([layout.x, layout.z, layout.scratch, layout.pre], np.int64)
        run_block(
            self.code.table, self.code.numbers, layout.registers, self._results, self._kinds,
            w.flat, self.times, w.layers, w.networks, w.eps, w.pre_kernel, w.pre_bias, w.obs_dim,
            w.sizes.wide, w.sizes.pre, places,
            run.obs, run.noise, run.weight, run.draws, first, rows, work, shared, counters,
            np.zeros(capacity, np.int64), member, members, run.answers, run.batch, run.status,
        )  # fmt: skip


class _Run(NamedTuple):
    """Inputs and answers of one call, flat; `draws` rows for each observation, `batch` in all.

    status (1,) becomes 1 when something is not finite.
    """

    obs: Array
    noise: Array
    weight: Array
    draws: int
    answers: Array
    batch: int
    status: Array


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

_samplers: dict[Any, CompiledSampler] = {}
_networks: dict[Any, Weights] = {}
_watched: set[int] = set()


def _remember(store: dict[Any, Any], key: Any, value: Any, owners: tuple[MLPParams, ...]) -> None:
    """Keep `value` until an owner dies, whose id may then be another's, or newer ones crowd it."""
    while len(store) >= KEPT:
        store.pop(next(iter(store), None), None)
    store[key] = value
    for owner in owners:
        if id(owner) not in _watched:
            _watched.add(id(owner))
            weakref.finalize(owner, _forget, id(owner))


def _forget(owner: int) -> None:
    _watched.discard(owner)
    for store in (_samplers, _networks):
        for key in [key for key in list(store) if owner in key[:2]]:
            store.pop(key, None)
