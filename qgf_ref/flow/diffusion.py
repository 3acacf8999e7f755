"""The variance-preserving diffusion of DAC and QSM, and the sampler that runs it backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.flow.chain import Chain, chain_end
from qgf_ref.nets.noise import NoisePredictor
from qgf_ref.ops.clip import clip
from qgf_ref.ops.structure import axpy, scaled


@dataclass(frozen=True)
class VPSchedule:
    """β_k, α_k = 1 − β_k and ᾱ_k = Π_{j≤k} α_j, each (T + 1,), float64; index 0: no noise."""

    betas: Array
    alphas: Array
    alpha_hats: Array


@lru_cache(maxsize=16)
def vp_schedule(steps: int) -> VPSchedule:
    """β_k = 1 − exp(−0.1/T − 4.95(2k − 1)/T²); ᾱ_k = exp(−0.1·k/T − 4.95·k²/T²) in closed form.

    Source: baselines.md, section 7 (`vp`).
    """
    k, T = np.arange(steps + 1), steps
    betas = np.where(k > 0, -np.expm1(-0.1 / T - 4.95 * (2 * k - 1) / T**2), 0.0)
    return VPSchedule(betas, 1 - betas, np.exp(-0.1 * k / T - 4.95 * k**2 / T**2))


@dataclass(frozen=True)
class SamplerClips:
    """Where the sampler clips to ±1.

    before  the clean estimate x̂, which then enters the posterior mean of DDPM; without it the
            official sampler takes x̂ itself for the next x, which is no DDPM step
    after   the next x, after its noise
    """

    before: bool = False
    after: bool = False


OFFICIAL, CORRECTED = SamplerClips(), SamplerClips(before=True)
"""The official scripts' sampler, whose samples grow to |a| = 30 … 1e5; and a DDPM sampler."""


def step_number(k: int, T: int) -> float:
    """k itself, never divided by T."""
    return k


def noise_removed(schedule: VPSchedule, k: int) -> tuple[float, float]:
    """−√(1−ᾱ_k), the share of ε that is added to x, and 1/√ᾱ_k, by which that is multiplied."""
    hat = schedule.alpha_hats.tolist()[k]
    return -math.sqrt(1 - hat), 1 / math.sqrt(hat)


def posterior_mean(schedule: VPSchedule, k: int) -> tuple[float, float, float]:
    """Shares of x̂, x and ε in the mean of x_{k−1}: DDPM's, whose last is 0."""
    hats, alpha = schedule.alpha_hats.tolist(), schedule.alphas.tolist()[k]
    hat, before = hats[k], hats[k - 1]
    of_clean = math.sqrt(before) * (1 - alpha) / (1 - hat)
    return of_clean, math.sqrt(alpha) * (1 - before) / (1 - hat), 0.0


def step_deviation(schedule: VPSchedule, k: int) -> float:
    """√β_k, not the posterior's; 0 in the last step, k = 1."""
    return math.sqrt(schedule.betas[k]) if k > 1 else 0.0


def own_draw(z: Array, n: int) -> Array:
    """z (T, B, D) of step n: k = T first."""
    return z[n]


@dataclass(frozen=True)
class DDPM(Chain):
    """x_T → x_0 by steps k = T … 1, of ingredients that the cross-check replaces.

    x̂ = (x − √(1−ᾱ_k)·ε(s, x, k))/√ᾱ_k, then the next x as the clips say, then + √β_k·z if k > 1.
    clip_clean  x̂ is clipped; posterior: the next x is the posterior's mean, else x̂ itself
    clip_state  the next x is clipped
    Source: baselines.md, section 7.
    """

    clip_clean: bool = True
    posterior: bool = True
    clip_state: bool = False
    schedule: Callable[[int], VPSchedule] = vp_schedule
    told: Callable[[int, int], float] = step_number
    cleaned: Callable[[VPSchedule, int], tuple[float, float]] = noise_removed
    mean: Callable[[VPSchedule, int], tuple[float, float, float]] = posterior_mean
    deviation: Callable[[VPSchedule, int], float] = step_deviation
    draw: Callable[[Array, int], Array] = own_draw

    draws: ClassVar[bool] = True
    words: ClassVar[dict[str, str]] = {
        "v": "the predicted noise ε",
        "a1_hat": "the clean estimate x̂ as it enters the next x",
        "a": "the state x_k",
        "action": "the final action",
    }

    @classmethod
    def of(cls, clips: SamplerClips) -> DDPM:
        """The sampler of these flags."""
        return cls(clips.before, clips.before, clips.after)

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        """ε(s, x, k)."""
        return net.forward(obs, x, self.told(T - n, T))[0]

    def estimate(self, net: Any, output: Array, x: Array, n: int, T: int) -> Array:
        """x̂, clipped if the flags say so."""
        of_noise, scale = self.cleaned(self.schedule(T), T - n)
        clean: Array = net.kernels(scaled, scale, net.kernels(axpy, of_noise, output, x))
        return net.kernels(clip, clean)[0] if self.clip_clean else clean

    def moved(
        self, net: Any, output: Array, estimate: Array, x: Array, z: Array | None, n: int, T: int
    ) -> Array:
        """The next x, with its noise."""
        assert z is not None
        kernels, schedule = net.kernels, self.schedule(T)
        following = estimate
        if self.posterior:
            of_clean, of_x, of_noise = self.mean(schedule, T - n)
            following = kernels(axpy, of_clean, estimate, kernels(scaled, of_x, x))
            if of_noise:
                following = kernels(axpy, of_noise, output, following)
        deviation = self.deviation(schedule, T - n)
        if deviation:
            following = kernels(axpy, deviation, self.draw(z, n), following)
        return kernels(clip, following)[0] if self.clip_state else following


def ddpm(
    net: NoisePredictor, obs: Array, noise: Array, z: Array, clips: SamplerClips = CORRECTED
) -> Array:
    """x_0 (B, D) from x_T = noise (B, D); obs (B, O), z (T, B, D), k = T first, the last not used.

    By `DDPM`; the result is not clipped.
    """
    return chain_end(DDPM.of(clips), net, obs, noise, z, len(z))
