"""One-dimensional quadrature: expectations under a tilted Gaussian, and the tilted law itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.closed_form_critics import AnalyticCritic

REACH = 12.0
"""Standard deviations integrated on either side: the mass beyond is below 1e-32."""
PANELS = 24
NODES = 10
"""Gauss-Legendre nodes on each panel; a panel is at most one standard deviation wide."""


def panel_nodes(edges: Array, panels: int) -> tuple[Array, Array]:
    """Composite Gauss-Legendre nodes and weights, both (R, N), on consecutive segments.

    edges (R, S + 1), ascending along each row: every segment is cut into `panels` equal panels.
    Segments of length zero get weight zero.
    """
    unit, weight = np.polynomial.legendre.leggauss(NODES)
    length = np.diff(edges, axis=1)[..., None, None] / panels
    start = edges[:, :-1, None, None] + length * np.arange(panels)[:, None]
    nodes = start + 0.5 * length * (unit + 1)
    weights = np.broadcast_to(0.5 * length * weight, nodes.shape)
    count = (edges.shape[1] - 1) * panels * NODES
    return nodes.reshape(len(edges), count), weights.reshape(len(edges), count)


def gaussian_expectations(
    mean: Array, sd: Array, critic: AnalyticCritic, weight: float
) -> tuple[Array, Array]:
    """log E[exp(w·Q(a))] and E[a·exp(w·Q(a))]/E[exp(w·Q(a))] for a ~ N(mean, sd²), each (R,).

    mean, sd (R,). The integral is split at the critic's kinks. Accurate to rounding while
    w·|Q′|·sd stays below about 30; beyond, the integrand is narrower than a panel (w = 1e6 costs
    all but three digits).
    """
    low, high = mean - REACH * sd, mean + REACH * sd
    kinks = [np.clip(kink, low, high) for kink in sorted(critic.kinks)]
    nodes, weights = panel_nodes(np.stack([low, *kinks, high], axis=1), PANELS)
    z = (nodes - mean[:, None]) / sd[:, None]
    exponent = weight * critic.value(nodes[..., None]) - 0.5 * z * z
    # a segment of length zero has nodes of weight zero: they must not set the scale
    exponent = np.where(weights > 0, exponent, -np.inf)
    shift = exponent.max(axis=1, keepdims=True, initial=-np.finfo(float).max)
    mass = weights * np.exp(exponent - shift) / (np.sqrt(2 * np.pi) * sd[:, None])
    total = mass.sum(axis=1)
    return shift[:, 0] + np.log(total), (mass * nodes).sum(axis=1) / total


@dataclass(frozen=True)
class TiltedLaw:
    """π ∝ p·exp(w·Q) in one dimension, tabulated by quadrature.

    nodes (N,) ascending and mass (N,), the probability that each node stands for.
    """

    nodes: Array
    mass: Array

    @classmethod
    def of(
        cls,
        log_density: Callable[[Array], Array],
        critic: AnalyticCritic,
        weight: float,
        low: float,
        high: float,
        panels: int = 4000,
    ) -> TiltedLaw:
        """The law of density p(a)·exp(w·Q(a))/Z on [low, high]; log_density takes (N, 1)."""
        inside = [k for k in sorted(critic.kinks) if low < k < high]
        nodes, weights = panel_nodes(np.array([[low, *inside, high]]), panels)
        a = nodes[0]
        exponent = log_density(a[:, None]) + weight * critic.value(a[:, None])
        mass = weights[0] * np.exp(exponent - exponent.max())
        return cls(a, mass / mass.sum())

    def expectation(self, f: Callable[[Array], Array]) -> float:
        """E[f(a)] for f on arrays (N,)."""
        return float((self.mass * f(self.nodes)).sum())

    def quantile(self, probability: Array) -> Array:
        """The inverse of the distribution function, by linear interpolation."""
        cumulative = np.cumsum(self.mass) - 0.5 * self.mass
        return np.interp(probability, cumulative, self.nodes)

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Independent draws (rows,)."""
        return self.quantile(rng.uniform(size=rows))
