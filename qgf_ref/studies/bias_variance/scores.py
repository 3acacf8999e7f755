"""Bias, variance and error of estimators against the exact guidance, over draws of the errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.profile import cosine
from qgf_ref.evaluation.statistics import Estimate, bootstrap_mean, bootstrap_ratio
from qgf_ref.guidance.base import Estimator
from qgf_ref.studies.bias_variance.errors import ideal_states
from qgf_ref.studies.shared.problems import Errors, Problem


@dataclass(frozen=True)
class GradientDraws:
    """g* (T, B, n), and for each estimator its G (R, T, B, n) in R draws of the errors."""

    problem: Problem
    errors: Errors
    truth: Array
    gradients: dict[str, Array]


def measure(
    problem: Problem,
    errors: Errors,
    estimators: Sequence[Estimator],
    rows: int,
    draws: int,
    seed: int,
) -> GradientDraws:
    """Every estimator at `rows` states of each time, in `draws` draws (1 without errors)."""
    states = ideal_states(problem, rows, seed)
    gradients: dict[str, list[Array]] = {e.label: [] for e in estimators}
    for r in range(1 if errors.none else draws):
        flow = problem.flow_with(errors, seed * 100_003 + r)
        steps = [problem.step(flow, x, k) for k, x in enumerate(states.points)]
        for e in estimators:
            gradients[e.label].append(np.stack([e(flow, step).gradient for step in steps]))
    stacked = {label: np.stack(parts) for label, parts in gradients.items()}
    return GradientDraws(problem, errors, states.truth, stacked)


@dataclass(frozen=True)
class Score:
    """All relative to the root mean square of g*, over points and times; 95% intervals.

    bias, sd, error  of G: √E‖E_r G − g*‖², √E‖G − E_r G‖², √E‖G − g*‖² (r: the draws), the first
                     corrected for the finite number of draws, so that error² = bias² + sd²
    scale            c that minimises E‖c·G − g*‖²: what tuning w would absorb
    scaled_bias, scaled_sd, scaled_error  of c·G; scaled_error is √(1 − ⟨G, g*⟩²/(‖G‖²‖g*‖²))
    cosine           mean cosine between G and g*
    """

    bias: Estimate
    sd: Estimate
    error: Estimate
    scale: Estimate
    scaled_bias: Estimate
    scaled_sd: Estimate
    scaled_error: Estimate
    cosine: Estimate

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each quantity."""
        for name, (value, low, high) in vars(self).items():
            yield {"quantity": name, "value": value, "low": low, "high": high}


def best_scale(gradient: Array, truth: Array) -> float:
    """c that minimises ‖c·G − g*‖² over everything; 0 where G is zero. truth broadcasts to G."""
    squared = float((gradient**2).sum())
    return float((gradient * truth).sum()) / squared if squared > 0 else 0.0


def squared_errors(gradient: Array, truth: Array) -> Array:
    """‖G − g*‖² of each draw (or of each point, of a single draw), over that of g*: (clusters,)."""
    squared = ((gradient - truth) ** 2).sum(axis=-1)
    each = squared.mean(axis=(1, 2)) if len(gradient) > 1 else squared[0].mean(axis=0)
    return np.asarray(each / (truth**2).sum(axis=-1).mean())


def score(gradient: Array, truth: Array) -> Score:
    """The `Score` of G (R, K, B, n) against g* (K, B, n), K times together.

    Intervals of bias and cosine: bootstrap over points; of the others over draws given the points,
    or over points where there is one draw. That of the scale is a point.
    """
    scale = best_scale(gradient, truth)
    c = Estimate(scale, scale, scale)
    alike = cosine(gradient, np.broadcast_to(truth, gradient.shape)).mean(axis=(0, 1))
    alike = alike[np.isfinite(alike)]
    parts = [_parts(factor * gradient, truth) for factor in (1.0, scale)]
    mean_cosine = (
        bootstrap_ratio(alike, np.ones(len(alike))) if alike.size else Estimate(0.0, 0.0, 0.0)
    )
    return Score(*parts[0], c, *parts[1], mean_cosine)


def _parts(gradient: Array, truth: Array) -> tuple[Estimate, Estimate, Estimate]:
    """Bias, sd and error."""
    R = len(gradient)
    mean = gradient.mean(axis=0)
    deviation = ((gradient - mean) ** 2).sum(axis=-1)  # (R, K, B)
    variance = deviation.sum(axis=0) / max(R - 1, 1)
    # the mean of R draws has left a share of 1/R of the variance in its distance to g*
    squared_bias = ((mean - truth) ** 2).sum(axis=-1) - variance / R
    size = (truth**2).sum(axis=-1)
    bias = _root(bootstrap_ratio(squared_bias.mean(axis=0), size.mean(axis=0)))
    each = deviation.mean(axis=(1, 2)) * R / max(R - 1, 1) / size.mean()
    sd = _root(bootstrap_ratio(each, np.ones(R)))
    errors = squared_errors(gradient, truth)
    return bias, sd, _root(bootstrap_ratio(errors, np.ones(len(errors))))


def _root(squared: Estimate) -> Estimate:
    # an unbiased estimate of a square can be slightly negative
    return Estimate(*(float(np.sqrt(max(x, 0.0))) for x in squared))


def score_rows(measured: GradientDraws, sweep: str, by_time: bool = False) -> list[dict[str, Any]]:
    """Long-form rows of every estimator: of the whole path (t empty), and of each time if asked."""
    p, rows = measured.problem, []
    head = {"sweep": sweep, **p.columns, **asdict(measured.errors)}
    for label, gradient in measured.gradients.items():
        times: list[tuple[float | None, slice]] = [(None, slice(None))]
        if by_time:
            times += [(t, slice(k, k + 1)) for k, t in enumerate(p.flow.times)]
        for t, k in times:
            for row in score(gradient[:, k], measured.truth[k]).rows():
                rows.append({**head, "t": t, "estimator": label, **row})
    return rows


def log2_ratio(measured: GradientDraws, rival: str) -> tuple[float, Estimate]:
    """log2 of qgf's scaled error over the rival's, and the interval of the difference of their
    squares (bootstrap over draws, paired, or over points where there is one draw).
    """
    each = {}
    for label in ("qgf", rival):
        gradient = measured.gradients[label]
        each[label] = squared_errors(
            best_scale(gradient, measured.truth) * gradient, measured.truth
        )
    ratio = float(0.5 * np.log2(each["qgf"].mean() / each[rival].mean()))
    return ratio, bootstrap_mean(each["qgf"] - each[rival])
