"""The audit as a whole job."""

from __future__ import annotations

import time
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from qgf_ref.arrays import Array, matrix
from qgf_ref.audit.derivatives import Point, checks_of
from qgf_ref.audit.profile import precision, profile, profile_stages
from qgf_ref.audit.report import AuditReport
from qgf_ref.checks import Check
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.provenance import provenance

BAR = "{desc} {bar:24} {n_fmt}/{total_fmt} {elapsed}"
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
) -> AuditReport:
    """Audit `checkpoint` (in float64) at the first `rows` of obs (N, O).

    weight  of the guidance in the float32-against-float64 comparison
    Raises InputError on observations of another width, fewer than 2, or not finite.
    """
    started = time.perf_counter()
    checkpoint = checkpoint.astype(np.float64)
    obs = matrix(obs, "obs", columns=checkpoint.obs_dim, dtype=np.float64)[:rows]
    if len(obs) < 2:
        raise InputError(f"the audit needs at least 2 observations, got {len(obs)}")
    checks: list[Check] = []
    point = Point.of(checkpoint, obs[:CHECK_ROWS], np.random.default_rng((seed, 0)))
    jobs = checks_of(point, estimators)
    stages = len(jobs) + profile_stages(estimators) + len(estimators)
    with tqdm(total=stages, disable=not show_progress, bar_format=BAR, leave=False) as bar:

        def advance(what: str) -> None:
            bar.set_description_str(what[:48].ljust(48))
            bar.update()

        for name, job in jobs.items():
            advance(f"(a) derivatives of {name}")
            checks += job()
        measured = profile(checkpoint.flow, obs, estimators, seed, advance)
        rounding = precision(checkpoint, obs, estimators, weight, seed, advance)
    return AuditReport(
        checkpoint=checkpoint.describe(),
        settings={
            "rows": len(obs),
            "check_rows": min(CHECK_ROWS, len(obs)),
            "weight": weight,
            "seed": seed,
            "estimators": [_describe(e) for e in estimators],
        },
        checks=checks,
        profile=measured,
        precision=rounding,
        seconds=time.perf_counter() - started,
        provenance=provenance(),
    )


def _describe(estimator: Estimator) -> str:
    options: dict[str, Any] = asdict(estimator) if is_dataclass(estimator) else {}
    shown = ", ".join(f"{k}={v}" for k, v in options.items() if not callable(v))
    return f"{estimator.name}({shown})" if shown else estimator.name
