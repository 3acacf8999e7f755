"""Aggregates over runs: closed forms, and intervals that cover as they say."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.aggregates import aggregate, improvement, interquartile_mean, profile


def test_interquartile_mean() -> None:
    scores = np.array([[0.0, 0.15], [0.2, 0.3], [0.4, 0.5], [0.9, 9.0]])
    assert interquartile_mean(scores) == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4, abs=1e-15)
    assert aggregate(scores, "mean").value == pytest.approx(scores.mean(), abs=1e-15)


def test_improvement() -> None:
    first, second = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0], [3.0]])
    # 1: ties, wins, loses; 2: wins, wins, loses
    assert improvement(first, second).value == pytest.approx((0.5 + 1 + 0 + 1 + 1 + 0) / 6)
    assert improvement(first, first).value == 0.5
    both = improvement(np.hstack([first, first]), np.hstack([second, second + 9]))
    assert both.value == pytest.approx((3.5 / 6 + 0) / 2)
    with pytest.raises(InputError, match="the same tasks, got 2 and 1"):
        improvement(np.ones((2, 2)), second)


def test_profile() -> None:
    share, low, high = profile(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([-1, 0.0, 0.5, 1.0]))
    assert share.tolist() == [1.0, 0.75, 0.25, 0.0]
    assert (low <= share).all()
    assert (share <= high).all()


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 3)), np.ones((2, 2, 2))])
def test_shapes(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"scores must be \(seeds, tasks\), got shape"):
        aggregate(bad)


def test_intervals_are_stratified() -> None:
    """Two tasks of quite different scores: only the seeds are drawn again, task by task, so that
    the interval is that of the noise and not of the difference between the tasks.
    """
    rng = np.random.default_rng(0)
    scores = np.array([0.1, 0.9]) + rng.normal(0, 0.02, (10, 2))
    found = aggregate(scores, "mean")
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.02 / np.sqrt(20), rel=0.4)
    # each task draws its own seeds: drawn together, what one loses the other would win
    opposed = 0.5 + np.outer(rng.normal(0, 0.1, 10), [1, -1])
    found = aggregate(opposed, "mean")
    assert found.high - found.low > 0.03
    assert aggregate(scores[:1], "mean").low == aggregate(scores[:1], "mean").high
    assert aggregate(scores) == aggregate(scores), "the same bits"


def test_intervals_cover() -> None:
    """Of 10 seeds a percentile bootstrap's 95% holds the mean in about 90% of the cases."""
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(150):
        found = aggregate(rng.normal(0.5, 0.1, (10, 3)), "mean", seed=i)
        hits += found.low <= 0.5 <= found.high
    assert hits / 150 > 0.85
