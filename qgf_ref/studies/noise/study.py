"""How much G changes when a_t is perturbed: the paper's Figure 3, and what it leaves out.

    cosine   cos(G(s, a_t), G(s, a_t + σξ)), ξ ~ N(0, I), averaged over states and steps
    change   ‖G(s, a_t + σξ) − G(s, a_t)‖ over the mean ‖G‖ at that t

at the states of the denoising chain without guidance, with the same ξ for every σ and estimator.
A G that is the same everywhere would be perfectly insensitive and useless, so the study also says
how alike the gradients of *different* observations are. Source: method.md, section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.profile import NOISE_LEVELS, cosine, gradients_near
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.progress import progress
from qgf_ref.studies.base import StudyOutcome, StudySettings, fill
from qgf_ref.studies.noise.words import report
from qgf_ref.studies.shared.trained import (
    chains,
    common_times,
    interval_over,
    left_out,
    normal_offsets,
    ratio,
    time_rows,
    usable_estimators,
)

SIGMAS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Sensitivity:
    """One estimator on one checkpoint: cosine, change (S, T, B); norm ‖G‖ (T, B); between (T, B):
    the cosine of G with that of the next observation at the same t. NaN where G is zero.
    """

    cosine: Array
    change: Array
    norm: Array
    between: Array


Sensitivities = Mapping[str, list[Sensitivity]]
"""By estimator, one for each checkpoint."""


def sensitivity(
    e: Estimator,
    flow: GuidedFlow,
    states: Sequence[DenoisingStep],
    xi: Array,
    sigmas: Sequence[float],
) -> Sensitivity:
    """Measure `e` at the T states. xi (T, B, D), standard normal."""
    G = gradients_near(e, flow, states, np.zeros_like(xi)).astype(np.float64)
    norm = np.linalg.norm(G, axis=-1)
    cosines, changes = [], []
    for sigma in sigmas:
        near = gradients_near(e, flow, states, sigma * xi).astype(np.float64)
        cosines.append(cosine(G, near))
        changes.append(ratio(np.linalg.norm(near - G, axis=-1), norm.mean(axis=1)[:, None]))
    between = cosine(G, np.roll(G, 1, axis=1))
    return Sensitivity(np.stack(cosines), np.stack(changes), norm, between)


def study(settings: StudySettings) -> StudyOutcome:
    """`qgf-ref study noise`. Raises InputError as `observations` and `usable_estimators`."""
    sigmas = NOISE_LEVELS if settings.quick else SIGMAS
    times = common_times(settings)
    estimators, without = usable_estimators(settings)
    measured: Sensitivities = {e.label: [] for e in estimators}
    counts = []
    with progress(len(settings.checkpoints) * len(estimators), "estimator") as job:
        for flow, states in chains(settings, 48 if settings.quick else 256):
            counts.append(len(states[0].obs))
            xi = normal_offsets(states, (settings.seed, 21))
            for e in estimators:
                job.say(e.label)
                measured[e.label].append(sensitivity(e, flow, states, xi, sigmas))
                job.advance()
    overall = sensitivity_rows(measured, sigmas, times, ("cosine", "change"), (None,))
    by_time = sensitivity_rows(measured, sigmas, times, ("cosine",), range(len(times)))
    norms: list[dict[str, Any]] = []
    for name, k, measure in product(measured, range(len(times)), ("norm", "between")):
        values = [getattr(m, measure) for m in measured[name]]
        norms += time_rows({"estimator": name, "measure": measure}, values, times, (k,))
    leads = lead_rows(measured, sigmas, times)
    zeros = {
        name: float(np.mean([(m.norm == 0).mean() for m in by_checkpoint]))
        for name, by_checkpoint in measured.items()
    }
    over = interval_over(settings)
    head = f"G at a_t and a_t + σξ, ξ ~ N(0, I): {counts[0]} observations × {len(times)} BC steps, "
    return StudyOutcome(
        "\n".join([fill(f"{head}{over}."), *left_out(without), ""])
        + "\n"
        + report(overall, norms, leads, zeros),
        {"": [*overall, *by_time], "norm": norms, "qgf_lead": leads},
        {"sigmas": list(sigmas), "observations": counts, "intervals": over},
    )


def sensitivity_rows(
    measured: Sensitivities,
    sigmas: Sequence[float],
    times: Sequence[float],
    measures: Sequence[str],
    steps: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Long-form rows of the measures that depend on σ, at these steps (None: over all t)."""
    rows: list[dict[str, Any]] = []
    for (name, by_checkpoint), measure in product(measured.items(), measures):
        for s, sigma in enumerate(sigmas):
            head = {"estimator": name, "measure": measure, "sigma": sigma}
            rows += time_rows(head, [getattr(m, measure)[s] for m in by_checkpoint], times, steps)
    return rows


def lead_rows(
    measured: Sensitivities, sigmas: Sequence[float], times: Sequence[float]
) -> list[dict[str, Any]]:
    """qgf's cosine minus every other's, observation by observation where both have one, over all t
    and at each; none where qgf was not studied.
    """
    rows: list[dict[str, Any]] = []
    for name in (n for n in measured if n != "qgf" and "qgf" in measured):
        pairs = list(zip(measured["qgf"], measured[name], strict=True))
        for s, sigma in enumerate(sigmas):
            leads = [qgf.cosine[s] - other.cosine[s] for qgf, other in pairs]
            head = {"other": name, "sigma": sigma}
            rows += time_rows(head, leads, times, (None, *range(len(times))))
    return rows
