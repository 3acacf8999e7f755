"""Milliseconds of one action chunk of each method, on both backends in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.backends.engine import Engine
from qgf_ref.bench.measure import Turn, interleaved, repetitions, spread
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.progress import tracked
from qgf_ref.sampling import sample

BACKENDS = "numpy", "numba"
"""Those that compute on the processor, whose thread is what a method is to be charged."""
_TURN = 0.01
"""Seconds of one contender in one round."""
_LEAST = 5
"""Calls in a round, at least: one alone may be interrupted."""


def milliseconds(
    checkpoint: Checkpoint, cells: Sequence[Cell], rounds: int, seed: int
) -> dict[Method, dict[str, dict[str, float]]]:
    """Spread (median, quartiles, extremes) by method and backend, for one observation on one
    thread; every contender once a round, so that a slow second of the machine hits all. A round's
    time is that of its fastest call: what else runs on the machine must not decide who is cheap.
    """
    rng = np.random.default_rng((seed, 14))
    obs = rng.standard_normal((1, checkpoint.obs_dim))
    runs = {
        (cell.method, name): _sampler(checkpoint, cell, name, obs, rng)
        for cell in cells
        for name in BACKENDS
    }
    with threadpool_limits(1):
        turns = []
        for (method, name), run in runs.items():
            run()  # compiles, or packs the networks
            start = perf_counter()
            run()
            again = max(_LEAST, repetitions(perf_counter() - start, _TURN))
            turns.append(Turn(f"{method.identity} {name}", run, again, fastest=True))
        timings = list(tracked(interleaved(turns, rounds), rounds, "round", title="timing"))
    return {
        cell.method: {
            name: spread([1e3 * t[f"{cell.method.identity} {name}"] for t in timings])
            for name in BACKENDS
        }
        for cell in cells
    }


def _sampler(
    checkpoint: Checkpoint, cell: Cell, backend: str, obs: np.ndarray, rng: np.random.Generator
) -> Callable[[], object]:
    method = cell.method
    flow = checkpoint.guided_flow(embedding=checkpoint.time_precision("acting"))
    noise = rng.standard_normal((method.best_of, checkpoint.flat_action_dim))

    def run() -> object:
        return sample(
            flow,
            obs,
            estimator=method.estimator,
            weight=cell.weight,
            noise=noise,
            best_of=method.best_of,
            gradient_steps=method.gradient_steps,
            denoise_steps=method.denoise_steps,
            backend=Engine.of(backend).single,
        )

    return run
