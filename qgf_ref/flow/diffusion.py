"""The variance-preserving diffusion of DAC and QSM, and the sampler that runs it backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qgf_ref.arrays import Array
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


def ddpm(
    net: NoisePredictor, obs: Array, noise: Array, z: Array, clips: SamplerClips = CORRECTED
) -> Array:
    """x_0 (B, D) from x_T = noise (B, D); obs (B, O), z (T, B, D), k = T first, the last not used.

    x̂ = (x − √(1−ᾱ_k)·ε(s, x, k))/√ᾱ_k, then the next x as `clips` says, then + √β_k·z if k > 1.
    The result is not clipped. Source: baselines.md, section 7.
    """
    T, kernels, x = len(z), net.kernels, noise
    schedule = vp_schedule(T)
    # Python's numbers leave float32 alone
    alphas, hats = schedule.alphas.tolist(), schedule.alpha_hats.tolist()
    for k in range(T, 0, -1):
        alpha, hat, before = alphas[k], hats[k], hats[k - 1]
        eps, _ = net.forward(obs, x, k)
        away = kernels(axpy, -math.sqrt(1 - hat), eps, x)
        clean = kernels(scaled, 1 / math.sqrt(hat), away)
        if clips.before:
            clean, _ = kernels(clip, clean)
            of_x = kernels(scaled, math.sqrt(alpha) * (1 - before) / (1 - hat), x)
            share = math.sqrt(before) * (1 - alpha) / (1 - hat)
            x = kernels(axpy, share, clean, of_x)
        else:
            x = clean
        if k > 1:
            x = kernels(axpy, math.sqrt(schedule.betas[k]), z[T - k], x)
        if clips.after:
            x, _ = kernels(clip, x)
    return x
