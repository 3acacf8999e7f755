"""How much G changes when a_t is perturbed: the paper's Figure 3, and what it leaves out.

    cosine   cos(G(s, a_t), G(s, a_t + σξ)), ξ ~ N(0, I), averaged over states and steps
    change   ‖G(s, a_t + σξ) − G(s, a_t)‖ over the mean ‖G‖ at that t

at the states of the denoising chain without guidance, with the same ξ for every σ and estimator.
A G that is the same everywhere would be perfectly insensitive and useless, so the study also says
how alike the gradients of *different* observations are. Source: method.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from qgf_ref.arrays import Array
from qgf_ref.audit.profile import NOISE_LEVELS, cosine, gradients_near
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.studies.base import StudyOutcome, StudySettings, fill
from qgf_ref.studies.noise.words import report
from qgf_ref.studies.shared.trained import (
    chain,
    common_times,
    interval,
    interval_over,
    left_out,
    observations,
    over_time,
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
    mean = norm.mean(axis=1)[:, None]
    cosines, changes = [], []
    for sigma in sigmas:
        near = gradients_near(e, flow, states, sigma * xi).astype(np.float64)
        moved = np.linalg.norm(near - G, axis=-1)
        cosines.append(cosine(G, near))
        changes.append(np.divide(moved, mean, out=np.full_like(moved, np.nan), where=mean > 0))
    between = cosine(G, np.roll(G, 1, axis=1))
    return Sensitivity(np.stack(cosines), np.stack(changes), norm, between)


@dataclass(frozen=True)
class Sensitivities:
    """By estimator, one Sensitivity for each checkpoint; sigmas (S,), times (T,)."""

    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    by_estimator: dict[str, list[Sensitivity]]

    def estimate(self, name: str, measure: str, s: int, k: int | None = None) -> Estimate:
        """The mean of `measure` at sigma number s: at step k, or over all."""
        return interval([_rows(getattr(m, measure), s, k) for m in self.by_estimator[name]])

    def lead(self, other: str, s: int, k: int | None = None) -> Estimate:
        """The cosine of qgf minus that of `other`, state by state, where both have one."""
        pairs = zip(self.by_estimator["qgf"], self.by_estimator[other], strict=True)
        return interval([_rows(q.cosine - o.cosine, s, k) for q, o in pairs])


def _rows(x: Array, s: int, k: int | None) -> Array:
    return over_time(x[s]) if k is None else np.asarray(x[s, k])


def study(settings: StudySettings) -> StudyOutcome:
    """`qgf-ref study noise`. Raises InputError as `observations` and `usable_estimators`."""
    sigmas = NOISE_LEVELS if settings.quick else SIGMAS
    times = common_times(settings)
    estimators, without = usable_estimators(settings)
    measured = Sensitivities(tuple(sigmas), times, {e.label: [] for e in estimators})
    counts = []
    total = len(settings.checkpoints) * len(estimators)
    with tqdm(total=total, disable=None, unit="estimator") as bar:
        for c, checkpoint in enumerate(settings.checkpoints):
            flow = checkpoint.flow
            obs = observations(settings, c, 48 if settings.quick else 256)
            states = chain(flow, obs, settings.seed)
            rng = np.random.default_rng((settings.seed, 21))
            xi = rng.standard_normal((len(states), *states[0].action.shape))
            xi = xi.astype(states[0].action.dtype)
            counts.append(len(obs))
            for e in estimators:
                bar.set_postfix_str(e.label, refresh=False)
                measured.by_estimator[e.label].append(sensitivity(e, flow, states, xi, sigmas))
                bar.update()
    overall, norms, leads = _overall(measured), _norms(measured), lead_rows(measured)
    zeros = {
        name: float(np.mean([(m.norm == 0).mean() for m in by_checkpoint]))
        for name, by_checkpoint in measured.by_estimator.items()
    }
    over = interval_over(settings)
    head = f"G at a_t and a_t + σξ, ξ ~ N(0, I): {counts[0]} observations × {len(times)} BC steps, "
    return StudyOutcome(
        "\n".join([fill(f"{head}{over}."), *left_out(without), ""])
        + "\n"
        + report(overall, norms, leads, zeros),
        {"": [*overall, *_by_time(measured)], "norm": norms, "qgf_lead": leads},
        {"sigmas": list(sigmas), "observations": counts, "intervals": over},
    )


def _overall(measured: Sensitivities) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "measure": measure, "sigma": sigma, "time": "all"}
        | measured.estimate(name, measure, s)._asdict()
        for name in measured.by_estimator
        for measure in ("cosine", "change")
        for s, sigma in enumerate(measured.sigmas)
    ]


def _by_time(measured: Sensitivities) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "measure": "cosine", "sigma": sigma, "time": t}
        | measured.estimate(name, "cosine", s, k)._asdict()
        for name in measured.by_estimator
        for s, sigma in enumerate(measured.sigmas)
        for k, t in enumerate(measured.times)
    ]


def _norms(measured: Sensitivities) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "measure": measure, "time": t}
        | interval([getattr(m, measure)[k] for m in by_checkpoint])._asdict()
        for name, by_checkpoint in measured.by_estimator.items()
        for k, t in enumerate(measured.times)
        for measure in ("norm", "between")
    ]


def lead_rows(measured: Sensitivities) -> list[dict[str, Any]]:
    """qgf's cosine minus every other's, over all t and at each; none where qgf was not studied."""
    if "qgf" not in measured.by_estimator:
        return []
    return [
        {"other": name, "sigma": sigma, "time": "all" if k is None else measured.times[k]}
        | measured.lead(name, s, k)._asdict()
        for name in measured.by_estimator
        if name != "qgf"
        for s, sigma in enumerate(measured.sigmas)
        for k in (None, *range(len(measured.times)))
    ]
