"""Aggregates over runs beside rliable, the library of the paper that defines them.

Its numbers only: its intervals need a package that today's pandas breaks (findings).
"""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.evaluation.aggregates import aggregate, improvement, interquartile_mean

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("shape", [(3, 6), (10, 5), (4, 1), (1, 3)])
def test_the_same_numbers(shape: tuple[int, int]) -> None:
    from rliable import metrics

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 26, (2, *shape)) / 25
    assert interquartile_mean(x) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-15)
    assert aggregate(x, "mean").value == pytest.approx(metrics.aggregate_mean(x), abs=1e-15)
    theirs = metrics.probability_of_improvement(x, y)
    assert improvement(x, y).value == pytest.approx(theirs, abs=1e-15)
