"""Intervals: proportions, paired proportions, means over clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its statistics, of slow import, are loaded where they are first used

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def prefixed(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as the columns name, name_low, name_high; None is None in all."""
    numbers = (None, None, None) if estimate is None else estimate
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's score interval. Raises InputError without trials."""
    if trials < 1:
        raise InputError("a success rate needs at least one episode")
    low, high = scipy.stats.binomtest(int(successes), int(trials)).proportion_ci(
        CONFIDENCE, method="wilson"
    )
    return Estimate(successes / trials, float(low), float(high))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """Success rate of `first` minus that of `second`, on the same episodes in the same order.

    Newcombe's score interval for paired proportions: unlike a bootstrap of the differences it
    does not shrink to a point when every pair agrees. Source: Newcombe, Statistics in Medicine 17
    (1998), 2635, method 10. Raises InputError unless both have the same, positive length.
    """
    x, y = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if x.shape != y.shape or not len(x):
        raise InputError(f"paired samples need equal, positive lengths, got {len(x)} and {len(y)}")
    n = len(x)
    both, only_x, only_y = int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum())
    neither = n - both - only_x - only_y
    p, q = wilson(both + only_x, n), wilson(both + only_y, n)
    margins = float(both + only_x) * (only_y + neither) * (both + only_y) * (only_x + neither)
    phi = 0.0
    if margins > 0:
        product = float(both * neither - only_x * only_y)
        # the continuity correction of method 10
        product = max(product - n / 2, 0.0) if product > 0 else product
        phi = product / np.sqrt(margins)
    difference = (only_x - only_y) / n

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    low = difference - reach(p.value - p.low, q.high - q.value)
    high = difference + reach(p.high - p.value, q.value - q.low)
    return Estimate(difference, max(low, -1.0), min(high, 1.0))


def student_mean(values: Sequence[float] | Array) -> Estimate:
    """A mean with Student's t interval, for the few values of a few training seeds.

    A percentile bootstrap of three values cannot leave their range, which holds the true median in
    3 of 4 cases only. One value: a point. Raises InputError without values.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        raise InputError("a mean needs at least one value")
    value = float(x.mean())
    if len(x) == 1:
        return Estimate(value, value, value)
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Estimate(value, value - float(reach), value + float(reach))


def bootstrap_mean(values: Sequence[float] | Array, seed: int = 0) -> Estimate:
    """A mean with a percentile bootstrap interval; a point where all values are equal."""
    x = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(x, np.ones_like(x), seed)


def bootstrap_ratio(sums: Array, counts: Array, seed: int = 0) -> Estimate:
    """Σ sums / Σ counts, both (clusters,), resampling whole clusters.

    With one cluster an episode, and sums and counts over its steps, this is a mean over steps
    whose interval knows that the steps of an episode are not independent.
    Raises InputError without clusters.
    """
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if not len(sums) or not counts.sum() > 0:
        raise InputError("a bootstrap needs at least one value")
    value = float(sums.sum() / counts.sum())
    means = sums / counts
    if len(sums) == 1 or np.ptp(means) <= 1e-12 * max(1.0, abs(value)):
        return Estimate(value, value, value)

    def ratio(a: Array, b: Array, axis: int = -1) -> Array:
        return a.sum(axis=axis) / b.sum(axis=axis)

    result = scipy.stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Estimate(value, float(low), float(high))


def rank_correlation(x: Array, y: Array) -> float | None:
    """Spearman's ρ; None where it is undefined: fewer than two values, or all of them equal."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(scipy.stats.spearmanr(x, y).statistic)
