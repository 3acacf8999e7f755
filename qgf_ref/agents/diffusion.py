"""Diffusion policies trained with the critic: what DAC and QSM share.

Source: baselines.md, section 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.critics import CRITIC_PARTS, CriticRecipe
from qgf_ref.agents.part import Part
from qgf_ref.agents.settings import OwnSettings, setting
from qgf_ref.agents.stage import NEXT_NOISE, NOISE, Draw, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.flow.diffusion import DDPM, SamplerClips, ddpm
from qgf_ref.losses.actor import pessimistic_q
from qgf_ref.losses.clipping import clipped_by_norm
from qgf_ref.losses.diffusion import noise_loss

ACTOR = "actor"
STEP = Draw(
    "k", lambda rng, batch, hyper: rng.integers(1, hyper.denoise_steps + 1, size=len(batch.obs))
)
"""k (B,), uniform in 1 … T: how many steps of noise a row has."""
EPS = Draw("eps", NOISE.sample)
"""(B, D), standard normal: the noise itself."""
NEXT_Z = Draw(
    "next_z",
    lambda rng, batch, hyper: rng.standard_normal((hyper.denoise_steps, *batch.action.shape)),
    row_axis=1,
)
"""(T, B, D), standard normal, of the sampler's steps; the last is drawn and never used."""


@dataclass(frozen=True)
class DiffusionSettings(OwnSettings):
    """The official code's options, under their names."""

    alpha: float = setting(10.0, "weight of cloning the behaviour")
    critic_loss_type: Literal["iql", "ddpg"] = setting(
        "iql", "ddpg: the critic bootstraps from the actor, and there is no value"
    )
    rho: float = setting(0.0, "a bootstrapped critic's target is the mean − rho·std of members")
    clip_grad_norm: float = setting(1.0, "largest joint norm of all gradients")
    clip_sampler_before: bool = setting(
        True, "clip the clean estimate, as DDPM does (the paper's scripts: no)"
    )
    clip_sampler_after: bool = setting(False, "clip after each step of the sampler")
    use_target_critic_grad: bool = setting(True, "the actor climbs the target critic")

    @property
    def clips(self) -> SamplerClips:
        """What the sampler clips."""
        return SamplerClips(self.clip_sampler_before, self.clip_sampler_after)

    @property
    def guide(self) -> str:
        """The critic whose gradient the actor follows."""
        return "target_critic" if self.use_target_critic_grad else "critic"

    @property
    def temperature(self) -> float | None:
        """κ of QSM; None: DAC's loss."""
        return None


@dataclass(frozen=True)
class DiffusionRecipe(CriticRecipe):
    """The noise predictor's loss and the critic's, all clipped by one joint norm."""

    parts: tuple[Part, ...] = ()  # type: ignore[misc]
    resident: bool = True
    settings: DiffusionSettings = DiffusionSettings()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The actor's loss, the critic's and the value's."""
        reads = (self.settings.guide,)
        return Stage(ACTOR, (ACTOR,), self._actor, (STEP, EPS), reads), *self.critic_stages

    def _actor(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.diffusion.noise_loss`."""
        nets, batch, drawn, own = inputs.nets, inputs.batch, inputs.drawn, self.settings
        loss, bar = noise_loss(
            nets.actor, nets[own.guide], batch.obs, batch.action, drawn["k"], drawn["eps"],
            batch.valid, inputs.hyper.denoise_steps, own.alpha, own.temperature,
        )  # fmt: skip
        return loss, {ACTOR: bar}


def next_q(settings: DiffusionSettings, inputs: StageInputs) -> Array:
    """mean_j Q̄_j − ρ·std_j Q̄_j (B,) at s' and the sampler's action there, clipped by it alone."""
    nets, obs, drawn = inputs.nets, inputs.batch.next_obs, inputs.drawn
    action = ddpm(nets.actor, obs, drawn["next_noise"], drawn["next_z"], settings.clips)
    return pessimistic_q(nets.target_critic, obs, action, settings.rho)


@dataclass(frozen=True)
class DiffusionAgent(ActorAgent):
    """Acts by the DDPM sampler; what is played is clipped to ±1, as the environment would."""

    settings: DiffusionSettings = DiffusionSettings()
    actor: ClassVar[str] = ACTOR

    def with_settings(self, settings: Any) -> DiffusionAgent:
        """The agent of these settings."""
        return diffusion(type(self), self.name, settings)

    @property
    def chain(self) -> DDPM:
        """Its sampler."""
        return DDPM.of(self.settings.clips)

    @property
    def acts(self) -> str:
        """Flags and all."""
        flags = vars(self.settings.clips).items()
        return "DDPM, " + ", ".join(f"clip_sampler_{when}={on}" for when, on in flags)

    def drawn(self, noise: Array, steps: int) -> Array:
        """`step_noise`."""
        return step_noise(noise, steps)


def step_noise(noise: Array, steps: int) -> Array:
    """z (T, B, D) of the sampler's steps, each row's from a generator that its x_T seeds.

    So a row's action is its own: the same x_T gives the same one in any batch, process and dtype.
    """
    rows = np.ascontiguousarray(noise, "<f4").view("<u4")
    shape = steps, noise.shape[1]
    z = [np.random.default_rng(_seed(row)).standard_normal(shape) for row in rows]
    return np.stack(z, axis=1).astype(noise.dtype) if z else noise[None].repeat(steps, axis=0)


def _seed(words: Array) -> Array:
    """The words of one little-endian integer, without those that are 0 at its high end: as NumPy
    takes an integer apart, in a sixth of the time.
    """
    used = np.flatnonzero(words)
    return words[: used[-1] + 1 if len(used) else 1].astype(np.uint32, copy=False)


def diffusion(kind: type[DiffusionAgent], name: str, settings: DiffusionSettings) -> DiffusionAgent:
    """The agent with IQL's critic, or with one that bootstraps from the sampler."""
    actor = Part(ACTOR, ("action", "obs", "step"), "action", acting=True, activation="mish")
    iql = settings.critic_loss_type == "iql"
    parts = (actor, *(part for part in CRITIC_PARTS if iql or part.name != "value"))
    group = (ACTOR, "critic", "value")
    most = settings.clip_grad_norm
    common: Mapping[str, Any] = {
        "jointly": partial(clipped_by_norm, groups=(group,), most=most),
        "parts": parts,
        "settings": settings,
    }
    if iql:
        recipe = DiffusionRecipe(value_aggregation=lambda name: "min", **common)
    else:
        recipe = DiffusionRecipe(
            bootstrap=partial(next_q, settings), next_draws=(NEXT_NOISE, NEXT_Z),
            next_reads=(ACTOR, "target_critic"), **common,
        )  # fmt: skip
    return kind(name, parts, recipe, settings=settings)
