"""Closed-form problems in n dimensions, and the errors that studies put into v and Q."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.denoising import denoising_step
from qgf_ref.flow.closed_form_critics import AnalyticCritic, QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.flow.perturbed import PerturbedCritic, PerturbedField
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.oracle import Oracle
from qgf_ref.studies.shared.scenes import SD, WEIGHTS, trimodal

STEPS = 10
"""T of the paper. Times t = 0, 0.1, …, 0.9."""
SIDE = 2.0
"""In two and more dimensions: distance between the modes at separation 1."""


@dataclass(frozen=True)
class Errors:
    """What is wrong with the networks: standard deviation and length scale of the error of Q and of
    each component of v (`qgf_ref.flow.perturbed`). Amplitude 0: exact.
    """

    critic_amplitude: float = 0.0
    critic_length: float = 0.5
    field_amplitude: float = 0.0
    field_length: float = 0.5

    @property
    def none(self) -> bool:
        """Whether both networks are exact."""
        return self.critic_amplitude == 0 and self.field_amplitude == 0


EXACT = Errors()


def with_errors(flow: GuidedFlow, errors: Errors, seed: int) -> GuidedFlow:
    """A closed-form flow with one draw of the errors in its v and Q."""
    if errors.critic_amplitude:
        assert isinstance(flow.critic, AnalyticCritic)
        critic = PerturbedCritic(flow.critic, errors.critic_amplitude, errors.critic_length, seed)
        flow = replace(flow, critic=critic)
    if errors.field_amplitude:
        field = PerturbedField(flow.field, errors.field_amplitude, errors.field_length, seed)
        flow = replace(flow, field=field)
    return flow


@dataclass(frozen=True)
class Problem:
    """Three modes of sd `sd` in n dimensions, Q = −½(a − a*)ᵀM(a − a*), guidance weight w.

    n = 1: the modes −2, 0, 1 of method.md, section 6, times `separation`, a* = 1·separation.
    n ≥ 2: the corners of an equilateral triangle of side 2·separation in a random plane; a* is the
    third corner plus sd·N(0, I), so that ∇Q also points off the plane. No action bound.
    M = I; with `anisotropy` r > 1 a random rotation of eigenvalues from 1/√r to √r.
    """

    n: int
    weight: float
    separation: float = 1.0
    sd: float = SD
    anisotropy: float = 1.0

    @property
    def columns(self) -> dict[str, float]:
        """What tables say of the problem."""
        return {"n": self.n, "w": self.weight, "separation": self.separation, "sd": self.sd}

    @cached_property
    def mixture(self) -> GaussianMixture:
        """π̂."""
        return GaussianMixture.isotropic(WEIGHTS, self._layout[0], self.sd)

    @cached_property
    def critic(self) -> QuadraticCritic:
        """Q."""
        rotation, _ = np.linalg.qr(np.random.default_rng((self.n, 1)).standard_normal([self.n] * 2))
        eigenvalues = np.geomspace(self.anisotropy**-0.5, self.anisotropy**0.5, self.n)
        curvature = rotation * eigenvalues @ rotation.T if self.n > 1 else np.eye(1)
        return QuadraticCritic(self._layout[1], curvature)

    @cached_property
    def tilted(self) -> GaussianMixture:
        """π ∝ π̂·exp(w·Q)."""
        return self.mixture.tilted(self.critic, self.weight)

    @cached_property
    def _layout(self) -> tuple[Array, Array]:
        """Means (3, n) and a* (n,)."""
        if self.n == 1:
            means = trimodal(self.separation).means
            return means, means[2]
        rng = np.random.default_rng(self.n)
        plane, _ = np.linalg.qr(rng.standard_normal((self.n, 2)))
        angles = 2 * np.pi * np.arange(3) / 3
        radius = self.separation * SIDE / np.sqrt(3)
        means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T
        return means, means[2] + self.sd * rng.standard_normal(self.n)

    @cached_property
    def flow(self) -> GuidedFlow:
        """Exact v, exact Q."""
        return GuidedFlow(MixtureFlow(self.mixture), self.critic, STEPS, action_bound=None)

    def flow_with(self, errors: Errors, seed: int) -> GuidedFlow:
        """v and Q with one draw of the errors."""
        return with_errors(self.flow, errors, seed)

    def points(self, rows: int, seed: int) -> Array:
        """States of the ideal sampler, (T, rows, n): at every time t_k draws of the tilted law's
        exact marginal p_t·h_t.
        """
        rng = np.random.default_rng((seed, self.n))
        return np.stack([self.tilted.at_time(t).sample(rng, rows) for t in self.flow.times])

    def step(self, flow: GuidedFlow, action: Array, index: int) -> DenoisingStep:
        """What an estimator sees of `flow` at action (B, n) and time t_index."""
        return denoising_step(flow, np.zeros((len(action), 0)), action, index, self.weight)

    def truth(self, points: Array) -> Array:
        """g* (T, B, n): the exact guidance of exact v and Q at points (T, B, n)."""
        exact = [
            Oracle()(self.flow, self.step(self.flow, x, k)).gradient for k, x in enumerate(points)
        ]
        return np.stack(exact)

    def critic_slope(self, points: Array) -> float:
        """Root mean square of ‖∇Q‖ at the exact E[x1|x_t] of points (T, B, n)."""
        query = [
            x + (1 - t) * self.flow.field.forward(x, x, t)[0]
            for x, t in zip(points, self.flow.times, strict=True)
        ]
        gradient = self.critic.gradient(np.concatenate(query))
        return float(np.sqrt((gradient**2).sum(axis=1).mean()))
