"""A recorded run beside the simulations of it: what agrees, by how many times the rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes, order
from qgf_ref.crosscheck.sampler.port import (
    Port,
)
from qgf_ref.crosscheck.sampler.rounding import UNIT, Scatter, by_step, norms, scatter
from qgf_ref.crosscheck.sampler.runs import (
    Inputs,
    Predicted,
    candidates_of,
    free_running,
    teacher_forced,
)
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.interop.trace_file import CAUSAL, PRECISIONS, RecordedTrace

RUNS, MOST_RUNS, ENOUGH_ROWS = 4, 16, 64
"""Float32 runs in other summation orders: more where a case has few rows to measure rounding on."""
RMS_LIMIT = 8.0
"""Largest ratio of root mean squares that is called rounding, times the spread of our own runs.
Correct JAX and PyTorch ports reach about half of both limits (benchmarks/results/crosscheck.md).
"""
PEAK_LIMIT = 16.0
"""The same for the largest error of any element."""


AXIS_OF = {"action": 0, "a": 1, "v": 1, "a1_hat": 1, "g": 1, "q": 2}
"""Where a quantity has its rows."""
ROWS_OF: dict[str, Callable[[int], tuple[int, ...]]] = {
    name: partial(lambda axis, n: (1,) * axis + (n,) + (1,) * (2 - axis), axis)
    for name, axis in AXIS_OF.items()
} | {"action": lambda n: (n, 1)}


class Judgement(NamedTuple):
    """One quantity of a recorded run against one simulation, each (T,) (action: (1,)).

    ratio    ‖theirs − truth‖/‖ours − truth‖, root mean squares over rows (ours: over all runs)
    spread   largest over typical ‖ours − truth‖: what other summation orders do
    peak     their largest error over the largest of ours
    """

    ratio: Array
    spread: Array
    peak: Array

    @property
    def excess(self) -> Array:
        """How many times over the limit, (T,); at most 1 is rounding."""
        return np.maximum(self.ratio / (RMS_LIMIT * self.spread), self.peak / PEAK_LIMIT)

    @property
    def agrees(self) -> bool:
        """Whether rounding explains every step."""
        return bool((self.excess <= 1).all())


Given = Mapping[str, Array] | None
"""Their quantities, in the place of a simulation's own."""
Runs = tuple[Scatter, list[Predicted]]
"""Several float32 runs, and their scatter about the float64 run."""


class RecordedCase:
    """One recorded run of a port.

    trace, weight () or (B·n,), and a label for messages. `theirs`: quantity → array as recorded,
    float64. compared: the quantities that count, if not all that are recorded. notes: on how it
    was written.
    """

    def __init__(
        self,
        trace: RecordedTrace,
        weight: float | Array,
        label: str = "",
        compared: tuple[str, ...] = CAUSAL,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.trace, self.label, self.notes = trace, label, notes
        self.best_of = trace.best_of
        self.single = trace.single_precision
        own = "float32" if self.single else "float64"
        self.precision: str = trace.metadata.get("precision", own)
        self.unit = PRECISIONS.get(self.precision, UNIT[np.dtype(own)])
        kind = np.float32 if self.single else np.float64
        obs, noise = (x.astype(kind).astype(np.float64) for x in (trace.obs, trace.noise))
        given = np.asarray(weight, kind).astype(np.float64)
        self.weight: float | Array = float(given) if given.ndim == 0 else given.reshape(-1, 1)
        z = None if trace.z is None else trace.z.astype(kind).astype(np.float64)
        self.inputs = Inputs(obs, noise, self.weight, self.best_of, z)
        self.theirs = {name: x.astype(np.float64) for name, x in trace.stepwise.items()}
        self.theirs["action"] = trace.action.astype(np.float64)
        self.states = self.theirs.get("a")
        self.theirs = {name: x for name, x in self.theirs.items() if name in compared}
        self._references: dict[tuple[int, bool, bool], tuple[Setting, Runs]] = {}

    @property
    def forced(self) -> bool:
        """Whether their states are known, so that each step can be recomputed from them."""
        return self.states is not None

    def final(self) -> RecordedCase:
        """Its final actions alone, sampled from the noise."""
        alone = copy(self)
        alone.states, alone.theirs, alone._references = None, {"action": self.theirs["action"]}, {}
        return alone

    @property
    def observed(self) -> tuple[str, ...]:
        """The recorded quantities in causal order."""
        return tuple(name for name in CAUSAL if name in self.theirs)

    def drew(self, z: Array | None) -> bool:
        """Whether it added other noise than the z that it was given, and said which."""
        return not (z is None or self.trace.z is None or np.array_equal(self.trace.z, z))

    def simulate(
        self,
        port: Port,
        rows: Array | None = None,
        upto: str = "action",
        given: Given = None,
        only: int | None = None,
    ) -> Predicted:
        """What `port` does on this case (on some observations of it), as it was recorded.

        only  of a run of known states, one step: the rest is NaN
        """
        inputs, states, dtype = self.inputs, self.states, port.flow.field.dtype
        if rows is not None:
            inputs = inputs.rows(rows)
            states = None if states is None else states[:, candidates_of(rows, self.best_of)]
        cast = inputs.astype(dtype)
        if states is None:
            return free_running(port, cast)
        return teacher_forced(port, cast, states.astype(dtype), given, upto, only)

    def free(self, port: Port) -> Predicted:
        """What `port` does from the noise alone."""
        return free_running(port, self.inputs.astype(port.flow.field.dtype))

    def scatter(
        self,
        setting: Setting,
        made: Mistakes = (),
        given: Given = None,
        free: bool = False,
        upto: str = "action",
    ) -> Scatter:
        """The truth under these mistakes and how far our own runs are from it."""
        if made and upto == "v":
            return self._simulated(setting, made, given, free, upto)[0]
        return self._runs(setting, made, given, free)[0]

    def free_runs(self, setting: Setting, made: Mistakes = ()) -> Runs:
        """The scatter of runs from the noise alone, and those runs."""
        return self._runs(setting, made, free=True)

    def _runs(
        self, setting: Setting, made: Mistakes = (), given: Given = None, free: bool = False
    ) -> Runs:
        """`_simulated`; the reference's once for a setting: search, place and record ask for it."""
        if made or not (given is None or given is self.theirs):
            return self._simulated(setting, made, given, free)
        key = id(setting), free or not self.forced, given is not None
        if key not in self._references:
            self._references[key] = setting, self._simulated(setting, made, given, free)
        return self._references[key][1]

    def _simulated(
        self, setting: Setting, made: Mistakes, given: Given, free: bool, upto: str = "action"
    ) -> Runs:
        def run(port: Port) -> Predicted:
            return self.free(port) if free else self.simulate(port, None, upto, given)

        exact = setting.port(made)
        count = int(np.clip(ENOUGH_ROWS // len(self.inputs.noise), RUNS, MOST_RUNS))
        if setting.opaque and not any(item.mistake.coupled for item in made):
            ours = self._at_once(setting.port(made, seed=0), given, free)
        else:
            ours = [run(setting.port(made, "float32", seed)) for seed in range(count)]
        # a float64 port that embeds float32 times is no more exact than its embedding
        coarsest = UNIT[np.dtype("float32")] if setting.time_precision == "float32" else 0.0
        unit = max(self.unit, coarsest)
        return scatter(lambda change: run(change(exact)), ours, unit, self.best_of), ours

    def _at_once(self, port: Port, given: Given, free: bool) -> list[Predicted]:
        """Several runs of a port whose rows are each off by themselves, as rows of one: a call of
        somebody's network may take seconds.
        """
        many = copy(self)
        x, n = self.inputs, RUNS
        weight = x.weight if isinstance(x.weight, float) else np.tile(x.weight, (n, 1))
        many.inputs = Inputs(
            np.tile(x.obs, (n, 1)), np.tile(x.noise, (n, 1)), weight, x.best_of
        )  # fmt: skip
        many.states = None if self.states is None else np.tile(self.states, (1, n, 1))
        wide = {name: np.tile(y, ROWS_OF[name](n)) for name, y in (given or {}).items()}
        run = many.free(port) if free else many.simulate(port, given=wide if given else None)
        parts = {name: np.split(y, n, axis=AXIS_OF[name]) for name, y in run.items()}
        return [{name: each[i] for name, each in parts.items()} for i in range(n)]

    def judge(self, quantity: str, against: Scatter) -> Judgement:
        """Their `quantity` against a simulation."""
        theirs, truth = self.theirs[quantity], against.truth[quantity]
        if theirs.shape != truth.shape:
            steps = len(by_step(quantity, truth))
            return Judgement(*(np.full(steps, x) for x in (np.inf, 1.0, np.inf)))
        error = by_step(quantity, theirs - truth)
        rms, peak = norms(error, against.rows(quantity))
        typical = np.maximum(against.typical(quantity), np.finfo(float).tiny)
        worst = np.maximum(against.peak[quantity].max(axis=0), typical)
        with np.errstate(invalid="ignore", over="ignore"):
            ratio, high = rms / typical, peak / worst
        broken = ~np.isfinite(ratio) | ~np.isfinite(typical)
        ratio[broken] = high[broken] = np.inf
        return Judgement(ratio, against.spread(quantity), high)


def causal_order(step: int, quantity: str) -> tuple[int, int]:
    """For sorting: a[k] arises at the end of step k − 1."""
    return (step - 1, order("a")) if quantity == "a" else (step, order(quantity))
