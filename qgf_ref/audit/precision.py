"""Audit, part (d): what float32 does to a chain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.audit.on_engine import REFERENCE, for_each, own
from qgf_ref.backends.engine import Engine
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.sampling import Trace, trace

EMBEDDINGS: tuple[Precision, ...] = ("exact", "float32")


def precision(
    checkpoint: Checkpoint,
    obs: Array,
    estimators: list[Estimator],
    weight: float,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
    engine: Engine = REFERENCE,
    threads: int = 1,
) -> dict[str, dict[str, list[float]]]:
    """Audit, part (d): float32 against float64 along the chain.

    For each estimator and each of "a", "v", "g" and the two ways to compute time embeddings in
    float32: ‖float32 − float64‖/‖float64‖ at each step (T,), over all rows, free-running from the
    same noise. The float64 run is on `engine`, the others on the reference, in `threads` threads.
    """
    rng = np.random.default_rng((seed, 2))
    noise = rng.standard_normal((len(obs), checkpoint.flat_action_dim)).astype(np.float32)
    single = checkpoint.astype(np.float32)
    double = single.astype(np.float64).flow
    flows = {name: single.guided_flow(embedding=name) for name in EMBEDDINGS}

    def ran(e: Estimator, flow: GuidedFlow, runner: Engine) -> Trace:
        return trace(flow, obs, estimator=e, weight=weight, noise=noise, backend=runner)

    def against(true: Trace, e: Estimator) -> dict[str, list[float]]:
        rows = {}
        for embedding, flow in flows.items():
            run = ran(e, flow, REFERENCE)
            for name in ("a", "v", "g"):
                expected, actual = getattr(true, name), getattr(run, name).astype(np.float64)
                scale = np.linalg.norm(expected, axis=(1, 2))
                error = np.linalg.norm(actual - expected, axis=(1, 2))
                ratio = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
                rows[f"{name}, {embedding} embedding"] = ratio.tolist()
        return rows

    truths = {}
    for e in estimators:
        progress(f"(d) float32 against float64: {e.label}")
        truths[e.label] = ran(e, double, own(e, engine))
    return for_each(estimators, lambda e: against(truths[e.label], e), threads)
