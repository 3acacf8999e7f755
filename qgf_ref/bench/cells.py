"""The cells of a measurement, in a process that is bound to its cores.

python -m qgf_ref.bench.cells       job as JSON on standard input, from `qgf_ref.bench.run`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.bench.contenders import (
    Declined,
    Factory,
    InTurn,
    Sampler,
    backend,
    first_call,
    peer,
)
from qgf_ref.bench.control import GEMM_FLOPS, Machine
from qgf_ref.bench.counts import Counts, count
from qgf_ref.bench.measure import Turn, interleaved, ratios, repetitions, spread
from qgf_ref.bench.settings import BenchSettings, TimedCell
from qgf_ref.bench.validation import Reference, Timed
from qgf_ref.errors import InputError
from qgf_ref.files import write_json
from qgf_ref.progress import progress
from qgf_ref.threads import limited

GEMM, READ = "control: product", "control: read"
_HEAVY = 1.0
"""Seconds of a call, by its count, from which on a turn is one call and none is spent on more."""
_LEAST_ROUNDS = 3
_UNKNOWN_BYTES = 1 << 26
"""Read by the control where nobody knows how large the networks are."""
_RING, _RING_BYTES = 8, 1 << 26
"""Inputs that a contender is called with in turn, at least two: so many, or so large together."""


class Bench:
    """Measures cells on `threads` threads. Keeps references and networks between cells."""

    def __init__(self, settings: BenchSettings, threads: int, machine: Machine) -> None:
        self.settings, self.threads, self.machine = settings, threads, machine
        self.notes: list[str] = []
        self.refused: dict[str, str] = {}
        self._factories: dict[str, Factory] = {
            name: backend(name, threads) for name in settings.backends
        }
        self._factories |= {given.name: peer(given) for given in settings.peers}
        self._networks: dict[str, Timed] = {}
        self._references: dict[tuple[str, str], Reference] = {}
        self._kind: TimedCell | None = None
        self._samplers: dict[str, Sampler] = {}

    def run(self) -> list[dict[str, Any]]:
        """All cells."""
        cells = list(self.settings.cells())
        rows = []
        with progress(len(cells), "cell") as job:
            for cell in cells:
                job.say(f"{self.threads} threads, {cell}")
                rows.append(self.measure_cell(cell))
                job.advance()
        return rows

    def measure_cell(self, cell: TimedCell) -> dict[str, Any]:
        """One cell.

        network, batch, estimator, dtype, threads, denoise_steps, rounds; counts, nominal and
        necessary (None for an estimator that does not state its products, and of a flow);
        weights_bytes, those of policy and critic (None of a flow); gemm_gflops and read_gbytes,
        spreads of the controls; contenders, by name: see `_timings`, and what `Reference.require`
        found of the first call.
        A contender that does not compute the sampler, at its first call or at the last timed one,
        is left out, and `refused` says why. Raises InputError when none does the cell.
        """
        exact, reference = self._reference(cell)
        steps = self._steps(exact)
        checkpoint = exact.astype(cell.dtype)
        size = cell.batch * (exact.obs_dim + exact.flat_action_dim) * np.dtype(cell.dtype).itemsize
        inputs = [
            reference.inputs(exact, cell.batch, cell.dtype, self.settings.seed, shift)
            for shift in range(max(2, min(_RING, _RING_BYTES // size)))
        ]
        counts = None
        if isinstance(checkpoint, Checkpoint):
            counts = count(checkpoint, cell.estimator, cell.batch, steps)
        product = self.machine.gemm(cell.dtype)
        peak = GEMM_FLOPS / min(_seconds(product) for _ in range(3))
        heavy = counts is not None and counts.nominal.flops / peak > _HEAVY

        turns: list[Turn] = []
        contenders: dict[str, dict[str, Any]] = {}
        first: dict[str, float] = {}
        calls: dict[str, InTurn] = {}
        for name in self._factories:
            if self.settings.skips(name, cell.batch):
                self._note(f"{name} is left out of the largest batches, to save time")
                continue
            started = time.perf_counter()
            try:
                run = self._sampler(name, cell, checkpoint, steps)
                actions = first_call(name, run, *inputs[0])
                seconds = time.perf_counter() - started
                contenders[name] = reference.require(
                    name, actions, str(cell), coarser=self._coarser(name)
                )
            except Declined as declined:
                self._note(str(declined))
                continue
            except InputError as error:
                self.refused.setdefault(name, str(error))
                continue
            first[name], calls[name] = seconds, InTurn(name, run, inputs)
            turns.append(self._turn(calls[name], heavy))
        self._require_any(contenders, cell)
        weights = _weights_bytes(exact, cell.dtype)
        read, read_bytes = self.machine.read(_UNKNOWN_BYTES if weights is None else weights)
        turns += [Turn(GEMM, product, 5, fastest=True), Turn(READ, read, 5, fastest=True)]
        rounds = self._rounds(sum(first.values()) if heavy else 0.0, turns)
        timings = list(interleaved(turns, rounds))
        others = [x.copy() for x in inputs[1]]
        for name, call in calls.items():
            where = f"{cell}, the last of {call.calls + 1} calls, each on other inputs,"
            try:
                reference.require(name, call.last(), where, call.shift, self._coarser(name))
                self._require_no_memory(name, call, inputs[0], others, reference, cell)
            except InputError as error:
                self.refused.setdefault(name, str(error))
                del contenders[name]
        self._require_any(contenders, cell)
        for name in contenders:
            contenders[name] |= _timings(
                name, next(iter(contenders)), timings, first[name], cell, counts
            )
        return {
            **cell._asdict(),
            "threads": self.threads,
            "denoise_steps": steps,
            "rounds": rounds,
            "calls_in_a_turn": {t.name: t.repetitions for t in turns if t.name in contenders},
            "counts": counts and {k: v._asdict() for k, v in counts._asdict().items()},
            "weights_bytes": weights,
            "gemm_gflops": spread([GEMM_FLOPS / t[GEMM] / 1e9 for t in timings]),
            "read_gbytes": spread([read_bytes / t[READ] / 1e9 for t in timings]),
            "rows_compared": reference.compared(cell.batch),
            "contenders": contenders,
        }

    def _steps(self, checkpoint: Timed) -> int:
        return self.settings.denoise_steps or checkpoint.options.denoise_steps

    def _reference(self, cell: TimedCell) -> tuple[Timed, Reference]:
        if cell.network not in self._networks:
            self._networks[cell.network] = self.settings.load(cell.network)
        exact = self._networks[cell.network]
        key = cell.network, cell.estimator
        if key not in self._references:
            self._references[key] = Reference.of(
                exact, cell.estimator, self.settings.weight, self._steps(exact), self.settings.seed
            )
        return exact, self._references[key]

    def _sampler(self, name: str, cell: TimedCell, checkpoint: Timed, steps: int) -> Sampler:
        """Made once for all batches, as its users would."""
        kind = cell._replace(batch=0)
        if kind != self._kind:
            self._kind, self._samplers = kind, {}
        if name not in self._samplers:
            self._samplers[name] = self._factories[name](
                checkpoint,
                estimator=cell.estimator,
                weight=self.settings.weight,
                denoise_steps=steps,
            )
        return self._samplers[name]

    def _require_no_memory(
        self,
        name: str,
        call: InTurn,
        known: tuple[Array, Array],
        others: Sequence[Array],
        reference: Reference,
        cell: TimedCell,
    ) -> None:
        """Raise InputError where a contender, called with arrays that it knows and other numbers in
        them, answers from memory: what it was timed at was no sampling.
        """
        before = [x.copy() for x in known]
        for x, other in zip(known, others, strict=True):
            x[...] = other
        try:
            actions = first_call(name, call.run, *known)
            where = f"{cell}, called with arrays that it knows and other numbers in them,"
            reference.require(name, actions, where, 1, self._coarser(name))
        finally:
            for x, kept in zip(known, before, strict=True):
                x[...] = kept

    def _require_any(self, contenders: dict[str, Any], cell: TimedCell) -> None:
        if not contenders:
            reasons = "; ".join([*self.refused.values(), *self.notes])
            raise InputError(f"no contender does {cell}: {reasons}")

    def _turn(self, call: InTurn, heavy: bool) -> Turn:
        again = 1 if heavy else repetitions(_seconds(call), self.settings.turn)
        return Turn(call.name, call, again)

    def _rounds(self, known: float, turns: list[Turn]) -> int:
        """As many as fit into the cell's time. known: seconds of a round, or 0 to time one."""
        if not known:
            known = sum(next(interleaved(turns, 1)).values())
        return max(_LEAST_ROUNDS, min(self.settings.rounds, int(self.settings.cell / known)))

    def _coarser(self, name: str) -> float:
        """How coarse a contender says that its products are: a backend of ours in TF32 does."""
        return backend_named(name).coarser if name in self.settings.backends else 1.0

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _weights_bytes(networks: Timed, dtype: str) -> int | None:
    """Of policy and critic, where they are ours."""
    if not isinstance(networks, Checkpoint):
        return None
    acting: Any = networks.flow
    numbers: int = acting.field.params.count + acting.critic.params.count
    return numbers * np.dtype(dtype).itemsize


def _seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _timings(
    name: str,
    leader: str,
    rounds: list[dict[str, float]],
    first: float,
    cell: TimedCell,
    counts: Counts | None,
) -> dict[str, Any]:
    """seconds of a call (spread) and of each round; samples_per_second (spread).

    slower_than_first (spread): how many times as long as the first contender's, within each round.
    compile_seconds: what its first call at this batch takes more than a later one (and making the
    sampler, for the first batch). Where the count is known, at the median: gflops_nominal,
    gflops_necessary and weight_gbytes (per second, necessary).
    """
    seconds = [timing[name] for timing in rounds]
    usual = spread(seconds)
    timing: dict[str, Any] = {
        "seconds": usual,
        "seconds_of_each_round": seconds,
        "samples_per_second": spread([cell.batch / s for s in seconds]),
        "slower_than_first": ratios(rounds, name, leader),
        "compile_seconds": max(0.0, first - usual["median"]),
    }
    if counts is not None:
        timing["gflops_nominal"] = counts.nominal.flops / usual["median"] / 1e9
        timing["gflops_necessary"] = counts.necessary.flops / usual["median"] / 1e9
        timing["weight_gbytes"] = counts.necessary.weight_bytes / usual["median"] / 1e9
    return timing


def main() -> None:
    """Read the job, do it, write the answer: rows and notes, or the error in the user's input."""
    job = json.load(sys.stdin)
    sys.path.extend(entry for entry in job["path"] if entry not in sys.path)
    threads: int = job["threads"]
    try:
        with limited(threads, "blas"), Machine(threads) as machine:
            bench = Bench(BenchSettings.from_dict(job["settings"]), threads, machine)
            answer = {"rows": bench.run(), "notes": bench.notes, "refused": bench.refused}
    except InputError as error:
        answer = {"input_error": str(error)}
    except KeyboardInterrupt:
        sys.exit(130)  # the parent reports it
    write_json(Path(job["answer"]), answer)


if __name__ == "__main__":
    main()
