"""Distances between laws against closed forms of Gaussians, and against scipy."""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import pytest
from scipy import stats

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import DistanceCritic
from qgf_ref.flow.distances import (
    energy_distance,
    kl,
    quantile_noise,
    sliced_wasserstein,
    wasserstein_1,
)
from qgf_ref.flow.gaussian_mixture import GaussianMixture
from qgf_ref.flow.quadrature import TiltedLaw

NORMAL = GaussianMixture.isotropic([1.0], [[0.0]], 1.0)
LAW = TiltedLaw.of(NORMAL.log_density, DistanceCritic(0.0), 0.0, -12.0, 12.0)


def test_quantile_noise_is_a_quadrature_of_the_standard_normal() -> None:
    z = quantile_noise(2000)
    assert z.shape == (2000, 1)
    np.testing.assert_allclose(z[:, 0], stats.norm.ppf((np.arange(2000) + 0.5) / 2000), rtol=1e-13)
    assert (np.diff(z[:, 0]) > 0).all()
    assert abs(z.mean()) < 1e-12
    # the midpoint rule cuts the tails: measured 6.5e-4 short of variance 1
    assert 0.998 < z.var() < 1.0


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.3, 1.0), (-1.5, 1.0), (0.0, 1.4)])
def test_wasserstein_of_gaussians(mean: float, sd: float) -> None:
    """A shift by m: |m|. A scale s: |s − 1|·E|z| = |s − 1|·√(2/π). Measured ≤ 4e-5 (the tails)."""
    expected = abs(mean) if sd == 1 else (sd - 1) * sqrt(2 / pi)
    actions = mean + sd * quantile_noise(2000)[:, 0]
    assert abs(wasserstein_1(actions, LAW) - expected) < 1e-4
    assert wasserstein_1(actions[::-1], LAW) == wasserstein_1(actions, LAW)


def gaussian_kl(mean: float, sd: float) -> float:
    return 0.5 * (sd**2 + mean**2 - 1) - log(sd)


@pytest.mark.parametrize(
    ("mean", "sd"), [(0.0, 1.0), (0.1, 1.0), (0.5, 1.0), (-1.0, 1.0), (0.0, 0.5), (0.3, 0.7)]
)
def test_kl_of_gaussians(mean: float, sd: float) -> None:
    """−log s + (s² + m² − 1)/2. Binning loses up to 1.4% here (m = −1: the tails); 2,000 points
    leave an error of up to 0.3% (s = ½).
    """
    value = kl(mean + sd * quantile_noise(2000)[:, 0], LAW)
    exact = gaussian_kl(mean, sd)
    assert exact * 0.98 - 1e-5 < value < exact * 1.006 + 1e-6


@pytest.mark.parametrize("rows", [250, 500])
def test_kl_from_few_points(rows: int) -> None:
    """As many as the didactic study uses: measured errors 2.4% and 1.4% (s = ½)."""
    exact = gaussian_kl(0.0, 0.5)
    value = kl(0.5 * quantile_noise(rows)[:, 0], LAW)
    assert abs(value - exact) < 8 / rows * exact


def test_kl_converges_as_the_bins_narrow() -> None:
    a = 0.3 + 0.7 * quantile_noise(20_000)[:, 0]
    errors = [gaussian_kl(0.3, 0.7) - kl(a, LAW, bins) for bins in (10, 40, 160)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


def test_kl_of_a_map_that_folds_or_collapses() -> None:
    """|z|: ρ is twice the density on half the line, KL = log 2. A point: the bound, log(bins)."""
    folded = abs(quantile_noise(2000)[:, 0])
    assert abs(kl(folded, LAW) - log(2)) < 1e-7  # measured 9e-9
    assert kl(np.full(2000, 0.123), LAW) == pytest.approx(log(100), rel=1e-12)
    assert kl(np.full(2000, 1e6), LAW) == pytest.approx(log(100), rel=1e-12)


def test_direction_of_kl() -> None:
    """KL(ρ ‖ π) of the narrow from the wide is 0.318, the other way round 0.807."""
    assert kl(0.5 * quantile_noise(2000)[:, 0], LAW) < 0.33


def cloud(seed: int, rows: int, dim: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, dim))


def test_one_dimension_is_scipys() -> None:
    x, y = cloud(0, 60, 1), cloud(1, 45, 1) + 0.4
    assert energy_distance(x, y) == pytest.approx(
        stats.energy_distance(x[:, 0], y[:, 0]), rel=1e-12
    )
    expected = stats.wasserstein_distance(x[:, 0], y[:, 0])
    sliced = sliced_wasserstein(x, y, np.random.default_rng(0), 3)
    assert sliced == pytest.approx(expected, rel=1e-12)


def test_a_shift_in_three_dimensions() -> None:
    """A shift by d moves every projection by ⟨u, d⟩: the mean of |⟨u, d⟩| is ‖d‖/2 in 3-D."""
    x, shift = cloud(2, 80, 3), np.array([0.0, 0.6, 0.8])
    sliced = sliced_wasserstein(x, x + shift, np.random.default_rng(0), 4000)
    assert abs(sliced - 0.5) < 0.02  # 4,000 directions: standard error 0.0046
    assert energy_distance(x, x + shift) > 0.3
    assert energy_distance(x, x[::-1]) == 0.0
    assert sliced_wasserstein(x, x[::-1], np.random.default_rng(0)) < 2e-16  # 4e-17, SciPy 1.11


def test_bad_input() -> None:
    with pytest.raises(InputError, match="rows ≥ 1"):
        quantile_noise(0)
    with pytest.raises(InputError, match=r"shape \(B,\)"):
        wasserstein_1(np.zeros((3, 1)), LAW)
    with pytest.raises(InputError, match="must be finite"):
        wasserstein_1(np.array([0.0, np.nan]), LAW)
    with pytest.raises(InputError, match="from 2 to 5 bins"):
        kl(np.zeros(10), LAW, bins=6)
    with pytest.raises(InputError, match=r"\(B, D\)"):
        energy_distance(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(InputError, match="directions"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), np.random.default_rng(0), 0)
