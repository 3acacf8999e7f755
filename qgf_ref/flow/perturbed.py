"""Critics and velocity fields with a smooth random error of known size: what learning would leave.

The error is a Gaussian process of covariance amplitude²·exp(−‖x − y‖²/2·length²), drawn by random
Fourier features (Rahimi and Recht, 2007):

    e(x) = (amplitude/√F) Σ_f R_f cos(⟨ω_f, x⟩/length + φ_f)

with ω_f ~ N(0, I), phases φ_f ~ U[0, 2π) and R_f Rayleigh, R_f² of mean 2. Given the ω_f it is
exactly Gaussian, of standard deviation `amplitude` everywhere; each component of its gradient has
standard deviation amplitude/length. A draw is a function of seed and width alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import AnalyticCritic
from qgf_ref.nets.velocity import FieldAround
from qgf_ref.ops.structure import cast

CRITIC_STREAM, FIELD_STREAM = 1, 2
"""So that a critic and a field of the same seed err independently."""


class Waves(NamedTuple):
    """N outputs of F features each: frequencies ω (N·F, D), phases φ and heights R/√F (N·F,)."""

    frequencies: Array
    phases: Array
    heights: Array

    def angles(self, x: Array) -> Array:
        """⟨ω, x⟩ + φ, (B, N·F). x (B, D), in units of the length scale."""
        return x @ self.frequencies.T + self.phases


@lru_cache(maxsize=8)
def draw_waves(seed: int, stream: int, outputs: int, features: int, width: int) -> Waves:
    """The features of a draw, as `Waves` with N = outputs and D = width."""
    rng = np.random.default_rng((seed, stream))
    frequencies = rng.standard_normal((outputs * features, width))
    phases = rng.uniform(0, 2 * np.pi, outputs * features)
    return Waves(frequencies, phases, rng.rayleigh(size=outputs * features) / np.sqrt(features))


def _require(amplitude: float, lengths: dict[str, float], seed: int, features: int) -> None:
    if not (np.isfinite(amplitude) and amplitude >= 0):
        raise InputError(f"amplitude must be a finite number ≥ 0, got {amplitude}")
    for name, length in lengths.items():
        if not (np.isfinite(length) and length > 0):
            raise InputError(f"{name} must be a finite number > 0, got {length}")
    if seed < 0 or features < 1:
        raise InputError(f"seed must be ≥ 0 and features ≥ 1, got {seed} and {features}")


@dataclass(frozen=True)
class PerturbedCritic(AnalyticCritic):
    """Another critic plus a smooth random function e of the action (the module's docstring).

    amplitude  standard deviation of e, in Q's units
    length     length scale of e, in the action's units
    seed       of the draw; features F
    Raises InputError unless amplitude ≥ 0, length > 0, seed ≥ 0 and features ≥ 1.
    """

    base: AnalyticCritic
    amplitude: float
    length: float
    seed: int
    features: int = 256

    def __post_init__(self) -> None:
        _require(self.amplitude, {"length": self.length}, self.seed, self.features)

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """Those of the critic underneath: e is smooth."""
        return self.base.kinks

    def _waves(self, action: Array) -> tuple[Waves, Array]:
        """The features, and their angles at action/length, (B, F)."""
        waves = draw_waves(self.seed, CRITIC_STREAM, 1, self.features, action.shape[-1])
        return waves, waves.angles(action / self.length)

    def value(self, action: Array) -> Array:
        """Q + e, (B,)."""
        waves, angles = self._waves(action)
        return self.base.value(action) + self.amplitude * (np.cos(angles) @ waves.heights)

    def gradient(self, action: Array) -> Array:
        """∇Q − (amplitude/length) Σ_f h_f sin(·)_f ω_f, (B, D), h_f = R_f/√F."""
        waves, angles = self._waves(action)
        slope = (np.sin(angles) * waves.heights) @ waves.frequencies
        return self.base.gradient(action) - self.amplitude / self.length * slope

    def hessian_product(self, action: Array, action_dot: Array) -> Array:
        """∇²Q·ȧ − (amplitude/length²) Σ_f h_f cos(·)_f ⟨ω_f, ȧ⟩ ω_f, (B, D); ȧ action_dot."""
        waves, angles = self._waves(action)
        along = action_dot @ waves.frequencies.T
        curvature = (np.cos(angles) * waves.heights * along) @ waves.frequencies
        base = self.base.hessian_product(action, action_dot)
        return base - self.amplitude / self.length**2 * curvature


class PerturbedFieldCache(NamedTuple):
    """The cache of the field underneath, and the angle of every feature, (B, D·F)."""

    base: Any
    angles: Array


@dataclass(frozen=True)
class PerturbedField(FieldAround):
    """Another velocity field plus a smooth random vector field e(a, t), one draw a coordinate.

    amplitude    standard deviation of each component of e, in the velocity's units
    length       length scale of e in the action
    seed         of the draw; features F of each component
    time_length  length scale of e in t
    It has no exact guidance: the estimator `oracle` belongs to the field underneath.
    Raises InputError unless amplitude ≥ 0, both lengths > 0, seed ≥ 0 and features ≥ 1.
    """

    amplitude: float
    length: float
    seed: int
    features: int = 32
    time_length: float = 0.5

    def __post_init__(self) -> None:
        lengths = {"length": self.length, "time_length": self.time_length}
        _require(self.amplitude, lengths, self.seed, self.features)

    @property
    def _waves(self) -> Waves:
        # one column more than the action has: the time
        D = self.action_dim
        return draw_waves(self.seed, FIELD_STREAM, D, self.features, D + 1)

    def forward(
        self, obs: Array, action: Array, time: float | Array
    ) -> tuple[Array, PerturbedFieldCache]:
        """v + e, (B, D). action (B, D), time () or (B,).

        e_i = amplitude Σ_f h_if cos(⟨ω_if, a⟩/length + ω′_if t/time_length + φ_if)
        """
        velocity, base = self.base.forward(obs, action, time)
        waves = self._waves
        column = np.broadcast_to(np.asarray(time), (len(action),))[:, None] / self.time_length
        angles = waves.angles(np.concatenate([action / self.length, column], axis=1))
        shape = (*action.shape, self.features)
        error = (np.cos(angles) * waves.heights).reshape(shape).sum(axis=-1)
        return velocity + cast(self.amplitude * error, velocity), PerturbedFieldCache(base, angles)

    def _slopes(self, cache: PerturbedFieldCache) -> Array:
        """∂e_i/∂⟨ω_if, a⟩, (B, D·F). Not in the forward: most forwards are never differentiated."""
        return np.sin(cache.angles) * (-self.amplitude / self.length * self._waves.heights)

    def jvp(self, action_dot: Array, cache: PerturbedFieldCache) -> Array:
        """v_dot_i + Σ_f slope_if ⟨ω_if, ȧ⟩, (B, D); ȧ action_dot."""
        along = self._slopes(cache) * (action_dot @ self._waves.frequencies[:, :-1].T)
        error_dot = along.reshape(*action_dot.shape, self.features).sum(axis=-1)
        return self.base.jvp(action_dot, cache.base) + cast(error_dot, action_dot)

    def vjp(self, velocity_bar: Array, cache: PerturbedFieldCache) -> Array:
        """(∂v/∂a)ᵀ v_bar + Σ_if v_bar_i slope_if ω_if, (B, D); v_bar velocity_bar."""
        weighted = self._slopes(cache) * np.repeat(velocity_bar, self.features, axis=1)
        pulled_back = weighted @ self._waves.frequencies[:, :-1]
        return self.base.vjp(velocity_bar, cache.base) + cast(pulled_back, velocity_bar)
