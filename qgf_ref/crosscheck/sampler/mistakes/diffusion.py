"""Mistakes in how DAC and QSM act: their diffusion with an ingredient replaced.

Source: baselines.md, sections 7 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import Change, Mistake, one
from qgf_ref.crosscheck.sampler.mistakes.noise_predictor import (
    SIN_FIRST,
    WITHOUT_2PI,
    ActivatedEncoder,
)
from qgf_ref.crosscheck.sampler.port import Port, Substituted
from qgf_ref.flow.diffusion import (
    DDPM,
    SamplerClips,
    VPSchedule,
    posterior_mean,
    step_deviation,
)


def _diffuses(port: Port) -> bool:
    return isinstance(port.chain, DDPM)


def _posterior(port: Port) -> bool:
    return isinstance(port.chain, DDPM) and port.chain.posterior


def _several(port: Port) -> bool:
    return _diffuses(port) and port.flow.denoise_steps > 1


def _chain(**ingredients: Any) -> Mapping[str, Change]:
    """The one variant that replaces ingredients of the diffusion."""
    return one(lambda port: port.with_chain(**ingredients))


def changing_net(change: Callable[[Any], Any]) -> Mapping[str, Change]:
    """The one variant that changes the network that acts."""
    return one(lambda port: port.with_policy(change))


def _running(by: Mapping[Any, Any]) -> Mapping[str, Change]:
    return changing_net(lambda net: replace(net, kernels=Substituted(net.kernels, by)))


def _activated(name: str) -> Mapping[str, Change]:
    return changing_net(lambda net: replace(net, options=replace(net.options, activation=name)))


def of_betas(betas: Array) -> VPSchedule:
    """The schedule of β_1 … β_T."""
    b = np.concatenate([[0.0], betas])
    return VPSchedule(b, 1 - b, np.cumprod(1 - b))


def _linear(first: float, last: float, scaled: bool = False) -> Callable[[int], VPSchedule]:
    def schedule(T: int) -> VPSchedule:
        factor = 1000 / T if scaled else 1.0
        return of_betas(np.minimum(np.linspace(first, last, T) * factor, 0.999))

    return schedule


def _cosine(T: int) -> VPSchedule:
    at = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return of_betas(np.minimum(1 - at[1:] / at[:-1], 0.999))


def _up_to_20(T: int) -> VPSchedule:
    k = np.arange(1, T + 1)
    return of_betas(-np.expm1(-0.1 / T - 0.5 * 19.9 * (2 * k - 1) / T**2))


def _row_later(port: Port) -> Port:
    right: Any = port.chain

    def schedule(T: int) -> VPSchedule:
        rows = np.minimum(np.arange(1, T + 2), T)
        values = right.schedule(T)
        return VPSchedule(values.betas[rows], values.alphas[rows], values.alpha_hats[rows])

    return port.with_chain(schedule=schedule)


def _cleaned(signal: Callable[[VPSchedule, int], float], root: bool = True) -> Mapping[str, Change]:
    def cleaned(schedule: VPSchedule, k: int) -> tuple[float, float]:
        kept = float(signal(schedule, k))
        return (-((1 - kept) ** 0.5), kept**-0.5) if root else (kept - 1, 1 / kept)

    return _chain(cleaned=cleaned)


def _ddim(schedule: VPSchedule, k: int) -> tuple[float, float, float]:
    before = float(schedule.alpha_hats[k - 1])
    return before**0.5, 0.0, (1 - before) ** 0.5


def _swapped(schedule: VPSchedule, k: int) -> tuple[float, float, float]:
    of_clean, of_x, _ = posterior_mean(schedule, k)
    return of_x, of_clean, 0.0


def _of_posterior(schedule: VPSchedule, k: int) -> float:
    hats = schedule.alpha_hats
    share = (1 - hats[k - 1]) / (1 - hats[k])
    return step_deviation(schedule, k) * float(share) ** 0.5


def _in_last_step(schedule: VPSchedule, k: int) -> float:
    return float(schedule.betas[k]) ** 0.5


def _told(**ways: Callable[[int, int], float]) -> Mapping[str, Change]:
    return {
        label.replace("_", " "): partial(Port.with_chain, told=way) for label, way in ways.items()
    }


class _StopsEarly(DDPM):
    """k = T … 2."""

    def steps(self, T: int) -> int:
        """T − 1."""
        return T - 1


def _stopping(port: Port) -> Port:
    return replace(port, chain=_StopsEarly(**vars(port.chain)))


def first_row(noise: Array) -> Array:
    """The first row's, for all."""
    return np.broadcast_to(noise[:1], noise.shape)


def of_flags(clips: SamplerClips) -> tuple[bool, bool, bool]:
    """What of `DDPM` the flags say."""
    right = DDPM.of(clips)
    return right.clip_clean, right.posterior, right.clip_state


def _flags(name: str, clips: SamplerClips) -> Mistake:
    clean, posterior, state = of_flags(clips)
    said = ", ".join(f"clip_sampler_{when}={on}" for when, on in vars(clips).items())
    return Mistake(
        name, "diffusion", "a1_hat", f"the sampler runs with {said}, unlike the settings",
        _chain(clip_clean=clean, posterior=posterior, clip_state=state),
        lambda port: isinstance(port.chain, DDPM) and (clean, posterior, state) != (
            port.chain.clip_clean, port.chain.posterior, port.chain.clip_state),
    )  # fmt: skip


CLEAN = "x̂ = (x − √(1−ᾱ_k)·ε)/√ᾱ_k"
STATE = "the next x is the mean + √β_k·z for k > 1"
VP = "β_k = 1 − exp(−0.1/T − 4.95(2k − 1)/T²)"
DIFFUSION: tuple[Mistake, ...] = (
    Mistake("step-as-fraction", "diffusion", "v",
            "k/T is encoded: the number k itself is",
            _told(divided=lambda k, T: k / T), _diffuses),
    Mistake("step-from-0", "diffusion", "v",
            "the network is told k − 1: its steps are 1 … T",
            _told(from_0=lambda k, T: k - 1), _diffuses),
    Mistake("step-counted-up", "diffusion", "v",
            "the network is told how many steps are done, not how much noise there is: k = T first",
            _told(from_1=lambda k, T: T + 1 - k, from_0=lambda k, T: T - k), _several),
    Mistake("features-sin-first", "diffusion", "v",
            "the step's features have sines first: cosines are", _running(SIN_FIRST), _diffuses),
    Mistake("features-without-2pi", "diffusion", "v",
            "the step's angles are k·w: they are 2π·k·w", _running(WITHOUT_2PI), _diffuses),
    Mistake("obs-before-action", "diffusion", "v",
            "the noise predictor reads [s, x, …]: it is [x, s, …], the action first",
            changing_net(lambda net: replace(net, inputs=("obs", "action", "step"))), _diffuses),
    Mistake("encoder-activated", "diffusion", "v",
            "the step's encoder ends in an activation: its last layer is linear",
            changing_net(lambda net: ActivatedEncoder(**vars(net))), _diffuses),
    *(Mistake(f"mish-is-{name}", "diffusion", "v", f"the noise predictor has {name}: it is mish",
              _activated(name), _diffuses) for name in ("relu", "gelu", "silu")),
    Mistake("schedule-linear", "diffusion", "a1_hat", f"β rises linearly: vp is {VP}",
            {"1e-4 to 0.02": partial(Port.with_chain, schedule=_linear(1e-4, 0.02)),
             "1e-4 to 0.02, times 1000/T": partial(
                 Port.with_chain, schedule=_linear(1e-4, 0.02, scaled=True))}, _several),
    Mistake("schedule-cosine", "diffusion", "a1_hat", f"ᾱ is a squared cosine: vp is {VP}",
            _chain(schedule=_cosine), _diffuses),
    Mistake("schedule-to-20", "diffusion", "a1_hat",
            f"β's rate goes up to 20, as in VP-SDE: it goes from 0.1 to 10, {VP}",
            _chain(schedule=_up_to_20), _diffuses),
    Mistake("schedule-row-later", "diffusion", "a1_hat",
            "β_k, α_k and ᾱ_k are read one row too far, the last one twice (what JAX's clamped "
            "index makes of arrays without the row 0): row 0 has no noise", one(_row_later),
            _several),
    Mistake("alpha-hat-row-earlier", "diffusion", "a1_hat",
            f"the clean estimate is of ᾱ_(k−1): {CLEAN}",
            _cleaned(lambda schedule, k: schedule.alpha_hats[k - 1]), _diffuses),
    Mistake("alpha-for-alpha-hat", "diffusion", "a1_hat",
            f"the clean estimate is of α_k: {CLEAN}",
            _cleaned(lambda schedule, k: schedule.alphas[k]), _several),
    Mistake("alpha-hat-without-roots", "diffusion", "a1_hat",
            f"the clean estimate lacks the square roots: {CLEAN}",
            _cleaned(lambda schedule, k: schedule.alpha_hats[k], root=False), _diffuses),
    _flags("no-clip", SamplerClips()),
    _flags("clip-before", SamplerClips(before=True)),
    _flags("clip-after", SamplerClips(after=True)),
    _flags("clip-before-and-after", SamplerClips(True, True)),
    Mistake("posterior-mean-unclipped", "diffusion", "a1_hat",
            "DDPM's mean of a clean estimate that is not clipped: with clip_sampler_before it is "
            "clipped, without it the official sampler takes x̂ itself for the next x",
            _chain(clip_clean=False, posterior=True, clip_state=False), _several),
    Mistake("clean-estimate-for-mean", "diffusion", "a",
            "the clipped clean estimate itself is the next x: with clip_sampler_before that is "
            "DDPM's mean", _chain(posterior=False),
            lambda port: _posterior(port) and _several(port)),
    Mistake("ddim-mean", "diffusion", "a",
            "the next x is DDIM's, √ᾱ_(k−1)·x̂ + √(1−ᾱ_(k−1))·ε: it is DDPM's posterior mean",
            {"with noise": partial(Port.with_chain, mean=_ddim),
             "without noise": partial(Port.with_chain, mean=_ddim, deviation=lambda *at: 0.0)},
            lambda port: _posterior(port) and _several(port)),
    Mistake("mean-shares-swapped", "diffusion", "a",
            "x̂ and x have each other's share in DDPM's mean", _chain(mean=_swapped), _posterior),
    Mistake("posterior-variance", "diffusion", "a",
            f"the noise has the posterior's variance β_k·(1−ᾱ_(k−1))/(1−ᾱ_k): {STATE}",
            _chain(deviation=_of_posterior), _several),
    Mistake("noise-times-variance", "diffusion", "a", f"the noise is β_k·z: {STATE}",
            _chain(deviation=lambda schedule, k: step_deviation(schedule, k) ** 2), _several),
    Mistake("noise-in-last-step", "diffusion", "a", f"noise is added at k = 1, too: {STATE}",
            _chain(deviation=_in_last_step), _diffuses),
    Mistake("noise-missing", "diffusion", "a", f"no step adds noise: {STATE}",
            _chain(deviation=lambda schedule, k: 0.0), _several),
    Mistake("noise-steps-reversed", "diffusion", "a",
            "step k takes z[k − 1]: z is in the order of the steps, k = T first",
            _chain(draw=lambda z, n: z[len(z) - 1 - n]), _several),
    Mistake("noise-of-first-step", "diffusion", "a",
            "every step adds the same noise (a key that is used again): each has its own",
            _chain(draw=lambda z, n: z[0]),
            lambda port: _diffuses(port) and port.flow.denoise_steps > 2),
    Mistake("noise-same-in-rows", "diffusion", "a",
            "all rows get the first one's noise z: each has its own",
            _chain(draw=lambda z, n: first_row(z[n])), _several, coupled=True),
    Mistake("last-step-missing", "diffusion", "action",
            "the loop ends at k = 2: the last step is k = 1", one(_stopping), _several),
)  # fmt: skip
"""Of DAC and QSM."""
