"""How far prefix guidance is from the law of chunks that go on from y, without a random number.

Chunks are Gaussian, a ~ N(0, Σ), Σ_ij = σ²ρ^|i−j|; the first d of H actions are y. The exact law of
a given y is Gaussian, and so is what the sampler draws: with these data v and G are affine in a_t
and y, hence the action is M·a_0 + N·y, whose matrices are read off the sampler itself, run on unit
vectors. The distance between the two is in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.prefix import PrefixCritic, prefix_flow
from qgf_ref.guidance.qgf_covariance import QGFCovariance
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.sampling import sample
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.prefix.words import report

HORIZON, EXECUTED = 8, 3
STEPS = 5, 10, 100, 1000
STIFF = 1e4
"""w of the exact Gaussian guidance: y is observed with a standard deviation of 0.01."""


@dataclass(frozen=True)
class ChunkLaw:
    """a ~ N(0, Σ), Σ_ij = σ²ρ^|i−j| (H, H), of which the first d are y."""

    sd: float
    correlation: float

    @property
    def covariance(self) -> Array:
        """Σ."""
        apart = np.abs(np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)))
        return np.asarray(self.sd**2 * self.correlation**apart)

    def continued(self) -> tuple[Array, Array]:
        """K (H, d) and S (H, H): given y, a ~ N(Ky, S)."""
        whole = self.covariance
        gain = whole[:, :EXECUTED] @ np.linalg.inv(whole[:EXECUTED, :EXECUTED])
        return gain, whole - gain @ whole[:EXECUTED]

    def flow(self, steps: int) -> GuidedFlow:
        """The exact flow of these chunks, guided to a prefix of d actions."""
        mixture = GaussianMixture(np.ones(1), np.zeros((1, HORIZON)), self.covariance[None])
        weights = np.arange(HORIZON) < EXECUTED
        critic = PrefixCritic(weights.astype(float))
        return prefix_flow(GuidedFlow(MixtureFlow(mixture), critic, steps), weights)


LAWS = {
    "independent, sd 1": ChunkLaw(1.0, 0.0),
    "smooth, sd 1": ChunkLaw(1.0, 0.9),
    "smooth, sd 0.3": ChunkLaw(0.3, 0.9),
}
CONTENDERS: dict[str, tuple[EstimatorLike, float]] = {
    "none": ("none", 0.0),
    "J, cut at 5 (paper)": ("qgf_jacobian_unmasked+schedule=rtc,5", 1.0),
    "I, cut at 5": ("qgf+schedule=rtc,5", 1.0),
    "J, cut at 10": ("qgf_jacobian_unmasked+schedule=rtc,10", 1.0),
    "I, cut at 10 (lerobot)": ("qgf+schedule=rtc,10", 1.0),
    "J, not cut": ("qgf_jacobian_unmasked+schedule=rtc,1e9", 1.0),
    "qgf_covariance, w = 1e4": (QGFCovariance(HORIZON), STIFF),
}
"""Label → estimator and weight. J: with the denoiser's Jacobian. I: without."""


def affine_map(flow: GuidedFlow, chosen: EstimatorLike, weight: float) -> tuple[Array, Array]:
    """M (H, H) and N (H, d) of the action M·a_0 + N·y: the sampler's answers to unit vectors."""
    count = HORIZON + EXECUTED
    noise, y = np.zeros((count, HORIZON)), np.zeros((count, HORIZON))
    noise[np.arange(HORIZON), np.arange(HORIZON)] = 1
    y[np.arange(HORIZON, count), np.arange(EXECUTED)] = 1
    answers = sample(flow, y, estimator=chosen, weight=weight, noise=noise)
    return answers[:HORIZON].T, answers[HORIZON:].T


def distances(law: ChunkLaw, moved: Array, pulled: Array) -> dict[str, float]:
    """How far N(Ny, MMᵀ) is from N(Ky, S), y as the data have it; in units of the data's sd.

    prefix   root mean square of what is executed, minus y
    mean     of the mean of the rest, minus the exact one
    spread   the standard deviation of the rest, over the exact one
    w2       the 2-Wasserstein distance of the whole chunk, per number: root mean square over y
    """
    gain, exact = law.continued()
    prior = law.covariance[:EXECUTED, :EXECUTED]
    covariance = moved @ moved.T
    off = (pulled - gain) @ prior @ (pulled - gain).T
    first, rest = slice(0, EXECUTED), slice(EXECUTED, None)
    root = _root(exact)
    bures = np.trace(covariance) + np.trace(exact) - 2 * np.trace(_root(root @ covariance @ root))
    mean_of = {
        "prefix": np.diagonal(off + covariance)[first].mean(),
        "mean": np.diagonal(off)[rest].mean(),
        "w2": max(np.trace(off) + bures, 0.0) / HORIZON,
    }
    found = {name: float(np.sqrt(value)) / law.sd for name, value in mean_of.items()}
    spread = np.diagonal(covariance)[rest].mean() / np.diagonal(exact)[rest].mean()
    return found | {"spread": float(np.sqrt(spread))}


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def study(settings: StudySettings) -> StudyOutcome:
    """Every contender on every law at several T. There is nothing random in it."""
    rows = [
        {"law": name, "T": T, "estimator": label} | distances(law, *affine_map(law.flow(T), *how))
        for name, law in LAWS.items()
        for T in (STEPS[:3] if settings.quick else STEPS)
        for label, how in _contenders(settings.estimators).items()
    ]
    return StudyOutcome(report(rows, HORIZON, EXECUTED), {"": rows})


def _contenders(
    names: Sequence[str] | None,
) -> dict[str, tuple[EstimatorLike, Any]]:
    if names is None:
        return CONTENDERS
    return {name: (name, 0.0 if name in ("none", "bc") else 1.0) for name in names}
