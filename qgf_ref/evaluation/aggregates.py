"""Scores of runs (seeds × tasks) as one number with an interval: mean, IQM, improvement, profile.

As Agarwal et al. (NeurIPS 2021, "Deep RL at the edge of the statistical precipice") define them and
their library rliable computes them; tests/peers compares with it. A run is one training seed on one
task, its score the success over the run's episodes. Intervals resample the runs of each task
(stratified bootstrap, percentiles): they are of training seeds, not of episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import CONFIDENCE, Estimate

REPLICATES = 2000


def interquartile_mean(scores: Array) -> float:
    """The mean of the middle half of all scores (seeds, tasks), a quarter cut at either end."""
    return float(_trimmed(_scores(scores)[None])[0])


def aggregate(scores: Array, kind: str = "iqm", seed: int = 0) -> Estimate:
    """Mean or interquartile mean ("mean", "iqm") of scores (seeds, tasks) with its 95% interval.

    With one seed the interval is a point. Raises InputError on scores of another shape.
    """
    x = _scores(scores)
    of: Callable[[Array], Array] = _trimmed if kind == "iqm" else _mean
    value = float(of(x[None])[0])
    return Estimate(value, *_percentiles(of(_resampled(x, seed))))


def improvement(first: Array, second: Array, seed: int = 0) -> Estimate:
    """P(X > Y), a run of `first` against one of `second` on the same task, averaged over tasks.

    Ties count one half: Mann-Whitney's U over the number of pairs. Both (seeds, tasks), of which
    the seeds may be of different numbers. Raises InputError unless the tasks are as many.
    """
    x, y = _scores(first), _scores(second)
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"improvement compares runs on the same tasks, got {x.shape[1]} and {y.shape[1]}"
        )
    value = float(_wins(x[None], y[None])[0])
    draws = _wins(_resampled(x, seed), _resampled(y, seed + 1))
    return Estimate(value, *_percentiles(draws))


def profile(scores: Array, levels: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    """Performance profile: the share of runs whose score exceeds each of `levels` (L,), and the
    ends of its pointwise 95% interval; three arrays (L,).
    """
    x = _scores(scores)
    draws = (_resampled(x, seed)[..., None] > levels).mean(axis=(1, 2))
    low, high = np.quantile(draws, _ends(), axis=0)
    share: Array = (x[..., None] > levels).mean(axis=(0, 1))
    return share, low, high


def _scores(scores: Array) -> Array:
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise InputError(f"scores must be (seeds, tasks), got shape {x.shape}")
    return x


def _trimmed(x: Array) -> Array:
    """(R, seeds, tasks) → (R,)."""
    flat: Array = scipy.stats.trim_mean(x.reshape(len(x), -1), 0.25, axis=1)
    return flat


def _mean(x: Array) -> Array:
    """(R, seeds, tasks) → (R,)."""
    mean: Array = x.mean(axis=(1, 2))
    return mean


def _wins(x: Array, y: Array) -> Array:
    """(R, n, tasks), (R, m, tasks) → (R,)."""
    pairs = x[:, :, None] - y[:, None]
    wins: Array = ((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(1, 2, 3))
    return wins


def _resampled(x: Array, seed: int) -> Array:
    """(seeds, tasks) → (REPLICATES, seeds, tasks): the seeds of each task drawn again."""
    draws = np.random.default_rng(seed).integers(len(x), size=(REPLICATES, *x.shape))
    again: Array = np.take_along_axis(np.broadcast_to(x, draws.shape), draws, axis=1)
    return again


def _ends() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _percentiles(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, _ends())
    return float(low), float(high)
