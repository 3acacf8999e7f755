"""Mixtures and critics in closed form."""

from __future__ import annotations

import numpy as np

from qgf_ref import (
    GaussianMixture,
    QuadraticCritic,
)

TRIMODAL = GaussianMixture.isotropic(
    np.array([0.4, 0.3, 0.3]), np.array([[-2.0], [0.0], [1.0]]), 0.15
)


TARGET = QuadraticCritic(np.array([1.0]), np.eye(1))


def correlated(dim: int, seed: int = 0) -> GaussianMixture:
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((3, dim, dim)) / np.sqrt(dim)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(dim)
    return GaussianMixture(np.array([0.2, 0.5, 0.3]), rng.standard_normal((3, dim)), covariances)


def critic_of(dim: int, seed: int = 1) -> QuadraticCritic:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dim, dim))
    return QuadraticCritic(rng.standard_normal(dim), factor @ factor.T / dim)
