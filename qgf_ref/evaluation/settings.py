"""What an evaluation plays: methods, weights, and which episode seeds belong to which split."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from qgf_ref.backends.engine import Engine, backend_named
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import DEFAULT_METHODS, Method, parse_methods
from qgf_ref.guidance.registry import known_everywhere
from qgf_ref.threads import VARIABLE

SELECTION = "selection"
HELD_OUT = "held-out"
HELD_OUT_OFFSET = 100_000
SEEDS_APART = 1_000_000
DEFAULT_WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Settings:
    """What to evaluate.

    methods, weights    every weighted method is tried at every weight; a method with weights of its
                        own (cfgrl: 1 2 3 5 10 15) at those instead
    selection_episodes  for each checkpoint, to choose weights on; not played when there is nothing
                        to choose
    episodes            for each checkpoint, held out
    seed                which million of episode seeds: no two of them share an episode
    envs                episodes that are played together; part of what decides the last bits
    workers             processes; decides nothing but the time
    backend             of the sampler: "numpy", the reference, or "numba", equal to rounding
    threads             of backend "numba", in each worker; decides nothing but the time
    Raises InputError on numbers outside their range.
    """

    methods: tuple[Method, ...] = parse_methods(DEFAULT_METHODS)
    weights: tuple[float, ...] = DEFAULT_WEIGHTS
    selection_episodes: int = 20
    episodes: int = 50
    seed: int = 0
    envs: int = 8
    workers: int = 1
    backend: str = "numpy"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("workers", 1), ("envs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be ≥ {least}, got {getattr(self, name)}")
        if self.threads is not None and not backend_named(self.backend).threaded:
            raise InputError(
                f"threads={self.threads} is for backend numba; with {self.backend}, give more "
                "workers"
            )
        Engine.of(self.backend, self.threads)
        if not self.methods:
            raise InputError("no method to evaluate: give at least one, e.g. qgf")
        if self.workers > 1:
            for method in self.methods:
                if not known_everywhere(method.estimator):
                    raise InputError(
                        f"the estimator {method.estimator!r} was added with register(), in this "
                        f"process: {self.workers} workers do not know it. Name it as "
                        "your.module:function, which they import, or use one worker"
                    )
        for weight in self.weights:
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"weights must be finite and ≥ 0, got {weight}")
        if len(set(self.weights)) < len(self.weights):
            raise InputError(f"a weight is given twice: {' '.join(map(str, self.weights))}")
        if any(m.weighted and not self.weights_of(m) for m in self.methods):
            raise InputError("the guided methods need at least one weight")
        if self.selects and not 1 <= self.selection_episodes <= HELD_OUT_OFFSET:
            raise InputError(
                f"to choose among {self._most_weights} weights, selection_episodes must be from 1 "
                f"to {HELD_OUT_OFFSET}, got {self.selection_episodes}"
            )

    @property
    def selects(self) -> bool:
        """Whether there is a weight to choose."""
        return self._most_weights > 1

    @property
    def _most_weights(self) -> int:
        return max((len(self.weights_of(m)) for m in self.methods), default=0)

    def weights_of(self, method: Method) -> tuple[float, ...]:
        """The weights at which a method is tried: its own, these, or none if it takes none."""
        if not method.weighted:
            return ()
        own = method.own_weights
        return self.weights if own is None else own

    @property
    def engine(self) -> Engine:
        """What one worker's sampler runs on. Without `threads`: QGF_REF_THREADS; else one thread
        with several workers, or all cores with one.
        """
        engine = Engine.of(self.backend, self.threads)
        if not engine.backend.threaded:
            return engine
        if self.threads is None and self.workers > 1 and not os.environ.get(VARIABLE):
            return engine.single  # the workers share the cores already
        return replace(engine, threads=engine.concurrency)

    def seeds(self, split: str) -> range:
        """The episode seeds of a split."""
        start = self.seed * SEEDS_APART
        if split == SELECTION:
            return range(start, start + self.selection_episodes)
        start += HELD_OUT_OFFSET
        return range(start, start + self.episodes)

    def describe(self) -> dict[str, Any]:
        """The settings as JSON."""
        named = {"methods": [m.identity for m in self.methods], "threads": self.engine.threads}
        own = {m.identity: m.own_weights for m in self.methods if m.own_weights is not None}
        return {**asdict(self), **named, **({"own_weights": own} if own else {})}
