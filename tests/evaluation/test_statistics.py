"""Intervals against closed forms, published numbers and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import (
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    rank_correlation,
    student_mean,
    wilson,
)

Z = 1.959963984540054


@pytest.mark.parametrize(("wins", "n"), [(0, 20), (20, 20), (7, 50), (1, 1)])
def test_wilson_is_the_closed_form(wins: int, n: int) -> None:
    p = wins / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert wilson(wins, n) == pytest.approx((p, max(centre - half, 0), min(centre + half, 1)))


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    x = [True] * (both + first) + [False] * (second + neither)
    y = [True] * both + [False] * first + [True] * second + [False] * neither
    return x, y


def test_paired_difference_is_newcombes_example() -> None:
    # Newcombe (1998), table II, method 10: 36 12 / 2 0
    assert paired_difference(*pairs(36, 12, 2, 0)) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_paired_difference_does_not_shrink_to_a_point() -> None:
    value, low, high = paired_difference(*pairs(0, 10, 0, 0))
    assert (value, high) == (1, 1)
    assert low < 0.7
    value, low, high = paired_difference(*pairs(10, 0, 0, 0))
    assert value == 0
    assert low < -0.2 < 0.2 < high


def test_paired_difference_is_antisymmetric() -> None:
    x, y = pairs(5, 9, 2, 4)
    value, low, high = paired_difference(x, y)
    assert paired_difference(y, x) == pytest.approx((-value, -high, -low))


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    x = np.random.default_rng(0).standard_normal(400)
    value, low, high = bootstrap_mean(x)
    error = x.std() / np.sqrt(len(x))
    assert value == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((value - Z * error, value + Z * error), abs=0.2 * error)
    assert bootstrap_mean(x) == bootstrap_mean(x)


@pytest.mark.parametrize("values", [[3.0], [-200.0] * 20, [0.1] * 7])
def test_bootstrap_of_equal_values_is_a_point(values: list[float]) -> None:
    assert bootstrap_mean(values) == pytest.approx((values[0],) * 3)


def test_bootstrap_over_clusters_knows_that_steps_are_not_independent() -> None:
    # 20 episodes of 40 identical steps: the interval is that of 20 values, not of 800
    means = np.random.default_rng(1).standard_normal(20)
    clustered = bootstrap_ratio(40 * means, np.full(20, 40.0))
    naive = bootstrap_mean(np.repeat(means, 40))
    assert clustered.value == pytest.approx(naive.value)
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(np.sqrt(40), rel=0.1)


def test_wilson_covers() -> None:
    rng = np.random.default_rng(0)
    wins = rng.binomial(50, 0.9, size=2000)
    intervals = {int(k): wilson(int(k), 50) for k in np.unique(wins)}
    covered = np.mean([intervals[int(k)].low <= 0.9 <= intervals[int(k)].high for k in wins])
    assert 0.92 < covered < 0.985


def test_rank_correlation() -> None:
    x = np.arange(5.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, np.ones(5)) is None
    assert rank_correlation(x[:1], x[:1]) is None


def test_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one episode"):
        wilson(0, 0)
    with pytest.raises(InputError, match="at least one value"):
        bootstrap_mean([])
    with pytest.raises(InputError, match="equal, positive lengths"):
        paired_difference([True], [True, False])


def test_student_mean_is_the_tabulated_interval() -> None:
    # t of 2 degrees of freedom at 97.5%: 4.3027; sd of 1, 2, 3: 1
    half = 4.3027 / np.sqrt(3)
    assert student_mean([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-4)
    assert student_mean([0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="at least one value"):
        student_mean([])
