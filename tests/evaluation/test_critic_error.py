"""Planted errors of a critic are found, with intervals over episodes."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.evaluation.critic_error import calibration, chunks, critic_error, table_of_chunks
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.rollouts import Episode
from tests.evaluation.fakes import episode


def cell(*episodes: Episode) -> Cell:
    return Cell(Method(), None, "held-out", (episodes,), 0.0, 0.0)


def test_by_hand() -> None:
    first = episode([1.0, 2.0, 3.0], [0.0, 2.0, 5.0], seed=1)
    second = episode([4.0], [10.0], terminated=False, seed=2)
    unknown = episode([100.0], [None], terminated=False, seed=3)
    given = chunks(cell(first, second, unknown))
    error = critic_error(given)
    assert error is not None
    assert (error.episodes, error.chunks, error.cut) == (2, 4, 0.5)
    assert (error.q, error.realised) == (2.5, 4.25)
    assert error.bias.value == pytest.approx((1 + 0 - 2 - 6) / 4)
    assert error.rmse == pytest.approx(np.sqrt((1 + 0 + 4 + 36) / 4))
    assert error.rank == pytest.approx(1.0)
    ended = critic_error(given, terminated_only=True)
    assert ended is not None
    assert (ended.episodes, ended.chunks, ended.cut) == (1, 3, 0.0)
    assert ended.bias.value == pytest.approx(-1 / 3)
    assert critic_error(chunks(cell(unknown))) is None
    assert calibration(chunks(cell(unknown))) == []


def test_a_planted_bias_is_inside_its_interval_and_zero_is_not() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(40):
        realised = -np.arange(30.0, 0, -1)
        q = realised + 3 + rng.standard_normal() + 0.1 * rng.standard_normal(30)
        episodes.append(episode(q.tolist(), realised.tolist(), seed=seed))
    error = critic_error(chunks(cell(*episodes)))
    assert error is not None
    assert error.bias.low < 3 < error.bias.high
    assert error.bias.low > 2
    # forty independent errors, not twelve hundred
    assert error.bias.high - error.bias.low == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.35)


def test_calibration_of_an_unbiased_critic_is_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(60):
        q = rng.uniform(-100, 0, 30)
        realised = q + rng.standard_normal(30)
        episodes.append(episode(q.tolist(), realised.tolist(), seed=seed))
    bins = calibration(chunks(cell(*episodes)))
    assert len(bins) == 8
    for b in bins:
        assert b.realised.value == pytest.approx(b.predicted, abs=0.4)
        assert b.realised.low < b.realised.value < b.realised.high


def test_the_expected_calibration_error_is_the_bins_mean_distance() -> None:
    """Errors cancel within a bin and not between bins; bins count by their chunks."""
    q = np.repeat([0.1, 0.9], [3, 5])
    realised = np.array([0.4, 0.0, 0.2, 0.6, 0.8, 0.5, 0.9, 0.7])
    error = critic_error(chunks(cell(episode(list(q), list(realised)))))
    assert error is not None
    assert error.ece == pytest.approx((3 * abs(0.1 - 0.2) + 5 * abs(0.9 - 0.7)) / 8)


def test_equal_predictions_make_one_bin() -> None:
    (only,) = calibration(chunks(cell(episode([-7.0] * 5, [-1.0, -2.0, -3.0, -4.0, -5.0]))))
    assert (only.predicted, only.realised.value) == (-7.0, -3.0)


def test_table_of_chunks() -> None:
    a = cell(episode([1.0, 2.0], [0.0, None]))
    b = Cell(Method("qgf"), 0.1, "selection", ((episode([3.0], [1.0]),),) * 2, 0.0, 0.0)
    table = table_of_chunks([a, b])
    assert table["cell"].tolist() == [0, 0, 1, 1]
    assert table["q"].tolist() == [1, 2, 3, 3]
    assert table["checkpoint"].tolist() == [0, 0, 0, 1]
    assert table["cell_method"].tolist() == ["bc", "qgf"]
    np.testing.assert_array_equal(table["realised"], [0, np.nan, 1, 1])
