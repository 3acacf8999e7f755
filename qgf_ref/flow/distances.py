"""How far a sampler's law is from the exact one: quadrature in one dimension, else samples."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import ndtri, xlogy

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError
from qgf_ref.flow.quadrature import TiltedLaw

BINS = 100
"""Bins of `kl`, each with the same probability under the exact law: KL is at most log(100) nats."""


def quantile_noise(rows: int) -> Array:
    """The standard normal's quantiles at (i + ½)/rows, (rows, 1) float64, ascending.

    A one-dimensional sampler maps them to a quadrature of its law by the midpoint rule, without
    sampling noise: its law's quantiles if the map is increasing, and equal masses in any case.
    Raises InputError unless rows ≥ 1.
    """
    if rows < 1:
        raise InputError(f"quantile_noise needs rows ≥ 1, got {rows}")
    return np.asarray(ndtri(_midpoints(rows)))[:, None]


def wasserstein_1(actions: Array, law: TiltedLaw) -> float:
    """W1 = ∫|F⁻¹(p) − G⁻¹(p)|dp between equal masses at actions (B,) and the exact law.

    In the unit of the actions; the midpoint rule in p at (i + ½)/B. Where a gap of width h between
    modes is reached at another p, the integrand jumps, and the rule is off by at most h/(2B).
    Raises InputError as `_line` does.
    """
    a = np.sort(_line(actions))
    return float(abs(a - law.quantile(_midpoints(len(a)))).mean())


def kl(actions: Array, law: TiltedLaw, bins: int = BINS) -> float:
    """KL(ρ ‖ π) in nats of the sampler's law ρ, equal masses at actions (B,), from the exact π.

    Over `bins` bins of equal probability under π: Σ_k ρ_k log(bins·ρ_k). The direction is the one
    that stays finite: π has full support, while ρ may leave bins empty. The choice of bins makes
    the number independent of how the axis is scaled, and bounds it by log(bins), which it reaches
    when all actions are in one bin. Binning can only lower KL (data processing); the loss is
    O(1/bins) for densities whose ratio is smooth.

    ρ_k comes from the distribution function through the sorted actions, linear between
    neighbours: second order in 1/B for a smooth density. The sampler's map need not be increasing
    and no derivative of it is taken: where it folds, several noises share one place, and sorting
    adds their masses. Where it collapses to a point, that point's mass falls into its bin.
    Raises InputError as `_line` does, and when there are not at least 2 actions for each bin.
    """
    a = np.sort(_line(actions))
    if not 2 <= bins <= len(a) // 2:
        raise InputError(f"kl of {len(a)} actions needs from 2 to {len(a) // 2} bins, got {bins}")
    edges = law.quantile(np.arange(1, bins) / bins)
    below = np.interp(edges, a, _midpoints(len(a)), left=0.0, right=1.0)
    mass = np.diff(below, prepend=0.0, append=1.0)
    return float(xlogy(mass, bins * mass).sum())


def sliced_wasserstein(
    x: Array, y: Array, rng: np.random.Generator, directions: int = 100
) -> float:
    """Mean over random unit directions of W1 between the projections of x (B, D) and y (C, D).

    Raises InputError as `_clouds` does, and unless directions ≥ 1.
    """
    _clouds(x, y)
    if directions < 1:
        raise InputError(f"sliced_wasserstein needs directions ≥ 1, got {directions}")
    u = rng.standard_normal((x.shape[1], directions))
    u /= np.linalg.norm(u, axis=0)
    pairs = zip((x @ u).T, (y @ u).T, strict=True)
    return float(np.mean([stats.wasserstein_distance(p, q) for p, q in pairs]))


def energy_distance(x: Array, y: Array) -> float:
    """√(2E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖) between the samples x (B, D) and y (C, D).

    Zero exactly when the two are the same as sets with multiplicities; in one dimension what
    `scipy.stats.energy_distance` computes. Memory: max(B, C)² numbers. Raises InputError as
    `_clouds` does.
    """
    _clouds(x, y)
    squared = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    return float(np.sqrt(max(squared, 0.0)))  # rounding can make it −1e-16 for equal samples


def _midpoints(rows: int) -> Array:
    return (np.arange(rows) + 0.5) / rows


def _line(actions: Array) -> Array:
    """Raises InputError unless actions are finite, of shape (B,) with B ≥ 1."""
    if np.ndim(actions) != 1 or not np.size(actions):
        raise InputError(f"expected actions of shape (B,), B ≥ 1, got {np.shape(actions)}")
    require_finite(actions, "the actions", InputError)
    return actions


def _clouds(x: Array, y: Array) -> None:
    """Raises InputError unless both are finite, (rows, D) with the same D and rows ≥ 1."""
    if np.ndim(x) != 2 or np.ndim(y) != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(
            f"expected samples (B, D) and (C, D), not empty; got {np.shape(x)} and {np.shape(y)}"
        )
    for sample in (x, y):
        require_finite(sample, "the samples", InputError)
