"""The audit as a whole job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array, matrix
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.coverage import coverage
from qgf_ref.audit.derivatives import checks_of, job_of
from qgf_ref.audit.final_values import FinalValues
from qgf_ref.audit.on_engine import REFERENCE, ours, reference_threads
from qgf_ref.audit.precision import precision
from qgf_ref.audit.profile import NO_PROFILE, profile, profile_stages
from qgf_ref.audit.report import AuditReport
from qgf_ref.audit.rules import AuditedStates, flow_of
from qgf_ref.audit.strength import strengths
from qgf_ref.backends.engine import Engine, EngineLike
from qgf_ref.checks import Check
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.progress import progress
from qgf_ref.provenance import provenance
from qgf_ref.sampling import sample
from qgf_ref.threads import one_blas_thread, results_of

CHECK_ROWS = 16
"""Rows at which derivatives are checked; more rows repeat the same code paths."""


def audit(
    checkpoint: Checkpoint,
    obs: Array,
    estimators: list[Estimator],
    *,
    rows: int = 64,
    weight: float = 0.1,
    seed: int = 0,
    show_progress: bool = True,
    backend: EngineLike | None = None,
) -> AuditReport:
    """Audit `checkpoint` (in float64) at the first `rows` of obs (N, O).

    weight   of the guidance in the float32-against-float64 comparison
    backend  of what the profile repeats at many states (default: numba where it is installed). What
             is verified is always the reference, and the numbers are the same to rounding
    BLAS is held to one thread meanwhile (`one_blas_thread`).
    An agent without a flow has no estimators: its networks and losses are audited.
    Raises InputError on observations of another width, fewer than 2, or not finite, on estimators
    that do not run on this checkpoint or share a name, and on a weight that is not ≥ 0.
    """
    started = time.perf_counter()
    checkpoint = checkpoint.astype(np.float64)
    obs = matrix(obs, "obs", columns=checkpoint.obs_dim, dtype=np.float64)
    if rows < 2 or len(obs) < 2:
        raise InputError(f"the audit needs at least 2 observations, got {min(rows, len(obs))}")
    obs = obs[:rows]
    engine = _fastest() if backend is None else Engine.of(backend)
    if not engine.backend.double:
        raise InputError(
            f"the audit computes in float64, which backend {engine.backend.name} does not: choose "
            "another --backend, or none"
        )
    _require_usable(checkpoint, obs, estimators, weight)
    with one_blas_thread():
        measured = _measure(checkpoint, obs, estimators, weight, seed, show_progress, engine)
    return AuditReport(
        checkpoint=checkpoint.describe(),
        settings={
            "rows": len(obs),
            "check_rows": min(CHECK_ROWS, len(obs)),
            "weight": weight,
            "seed": seed,
            "backend": engine.backend.name,
            "estimators": [_describe(e) for e in estimators],
        },
        **measured,
        seconds=time.perf_counter() - started,
        provenance=provenance(),
    )


def _fastest() -> Engine:
    try:
        return Engine.of("numba")
    except InputError:  # not installed
        return REFERENCE


def _require_usable(
    checkpoint: Checkpoint, obs: Array, estimators: list[Estimator], weight: float
) -> None:
    """Find out now, not after a minute, what would stop the audit."""
    if flow_of(checkpoint) is None and not estimators:
        return
    labels = [e.label for e in estimators]
    if len(set(labels)) < len(labels):
        raise InputError(f"each estimator can be audited once; got {', '.join(labels)}")
    if all(label == "none" for label in labels):
        raise InputError("give at least one estimator beside 'none'")
    for e in estimators:
        sample(checkpoint.flow, obs[:1], estimator=e, weight=weight, rng=0)


def _measure(
    checkpoint: Checkpoint,
    obs: Array,
    estimators: list[Estimator],
    weight: float,
    seed: int,
    show_progress: bool,
    engine: Engine,
) -> dict[str, Any]:
    """checks, coverage, profile, strength and precision of the report."""
    point = AuditedStates.of(checkpoint, obs[:CHECK_ROWS], np.random.default_rng((seed, 0)))
    jobs, flow = checks_of(point, estimators), flow_of(checkpoint)
    stages = len(jobs) + (_flow_stages(estimators) if flow else 0)
    threads, telling = reference_threads(checkpoint), Lock()
    with progress(stages, "stage", leave=False, show=show_progress) as job:

        def advance(what: str) -> None:
            with telling:
                job.say(what)
                job.advance()

        checks = _checks(jobs, estimators, advance, threads)
        jobs.clear()  # and what their networks remember
        if flow is None:
            nothing: dict[str, Any] = {"coverage": {}, "precision": {}, "strength": {}}
            return {"checks": checks, "profile": NO_PROFILE, **nothing}
        guided = [e for e in estimators if e.name != "none"]
        chain = ChainGradients.of(flow, obs, guided, seed, advance, threads)
        chunk = checkpoint.horizon, checkpoint.action_dim
        final = FinalValues(flow, chain, engine, threads)
        return {
            "checks": checks,
            "coverage": coverage(flow, chain, estimators, checks, engine, chunk),
            "profile": profile(flow, chain, estimators, advance, engine, final),
            "strength": strengths(flow, chain, guided, weight, seed, advance, engine, final),
            "precision": precision(
                checkpoint, obs, estimators, weight, seed, advance, engine, threads
            ),
        }


def _checks(
    jobs: Mapping[str, Callable[[], list[Check]]],
    estimators: list[Estimator],
    advance: Callable[[str], None],
    threads: int,
) -> list[Check]:
    """What the jobs find, in their order; those of users' estimators are run alone, at last."""
    theirs = {job_of(e) for e in estimators if not ours(e)}

    def run(name: str) -> list[Check]:
        advance(f"(a) derivatives of {name}")
        return jobs[name]()

    known = [name for name in jobs if name not in theirs]
    found = dict(zip(known, results_of([partial(run, n) for n in known], threads), strict=True))
    return [check for n in jobs for check in (found[n] if n in found else run(n))]


def _flow_stages(estimators: list[Estimator]) -> int:
    guided = sum(e.name != "none" for e in estimators)
    return profile_stages(estimators) + guided + len(estimators)


def _describe(estimator: Estimator) -> str:
    options: dict[str, Any] = asdict(estimator) if is_dataclass(estimator) else {}
    settings = ", ".join(f"{k}={v}" for k, v in options.items() if not callable(v))
    return f"{estimator.label}({settings})" if settings else estimator.label
