"""FQL: a flow clones the behaviour, and a one-step policy follows it and climbs the critic.

Source: baselines.md, section 5; Park et al., Flow Q-Learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.cloning import cloning_stage
from qgf_ref.agents.critics import CRITIC_PARTS, CriticRecipe
from qgf_ref.agents.part import Part
from qgf_ref.agents.settings import OwnSettings, setting
from qgf_ref.agents.stage import NEXT_NOISE, Draw, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.flow.chain import Chain
from qgf_ref.losses.actor import endpoint, q_at
from qgf_ref.losses.fql import one_step_loss
from qgf_ref.nets.networks import forward_only
from qgf_ref.ops.clip import clip

CLONE, ONE_STEP = "actor_bc_flow", "actor_onestep_flow"
Z = Draw("z", lambda rng, batch, hyper: rng.standard_normal(batch.action.shape))
"""z (B, D): where flow and one-step policy both start."""


@dataclass(frozen=True)
class FQLSettings(OwnSettings):
    """The official code's options, under their names."""

    alpha: float = setting(300.0, "weight of following the cloned flow, times a mean over D")
    critic_loss_type: Literal["iql", "ddpg"] = setting(
        "iql", "ddpg: the critic bootstraps from the actor, and there is no value"
    )
    normalize_q_loss: bool = setting(False, "divide the actor's Q by its mean size")
    actor_layer_norm: bool = setting(False, "LayerNorm in the actor's networks")


@dataclass(frozen=True)
class FQLRecipe(CriticRecipe):
    """Three losses, four with a value; each sees the networks from before the update."""

    parts: tuple[Part, ...] = ()  # type: ignore[misc]
    resident: bool = True
    settings: FQLSettings = FQLSettings()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Cloning, the one-step policy's loss, the critic's and the value's."""
        clone = cloning_stage(CLONE)
        reads = (CLONE, "critic")
        follow = Stage(
            ONE_STEP, (ONE_STEP,), self._one_step, (Z,), reads, self._held, each_step={CLONE: 1}
        )
        return clone, follow, *self.critic_stages

    def _held(self, inputs: StageInputs) -> Array:
        """a* (D, B), clipped, no gradient flows into the flow; and |m·q| as a last row, if it is
        what Q is divided by.
        """
        nets, batch, z = inputs.nets, inputs.batch, inputs.drawn["z"]
        field = nets[CLONE]
        action = endpoint(field, batch.obs, z, inputs.hyper.denoise_steps)
        rows = field.kernels(clip, action)[0].T
        if self.settings.normalize_q_loss:
            q, _ = q_at(nets.critic, batch.obs, nets[ONE_STEP].forward(batch.obs, z)[0], "mean")
            rows = np.concatenate([rows, np.abs(batch.valid * q)[None]])
        return rows.copy()

    def _one_step(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.fql.one_step_loss`."""
        assert inputs.fixed is not None
        nets, batch, own = inputs.nets, inputs.batch, self.settings
        D, z = batch.action.shape[1], inputs.drawn["z"]
        flow_action, sizes = inputs.fixed[:D].T.copy(), inputs.fixed[D:]
        scale = 1 / sizes.mean() if own.normalize_q_loss else 1.0
        loss, bar = one_step_loss(
            nets[ONE_STEP], nets.critic, batch.obs, z, flow_action, batch.valid, own.alpha, scale
        )
        return loss, {ONE_STEP: bar}


def next_q(inputs: StageInputs) -> Array:
    """Q̄(s', c(μ(s', z'))) (B,) of the current one-step policy; aggregated as the options say."""
    nets, obs = inputs.nets, inputs.batch.next_obs
    action, _ = forward_only(nets[ONE_STEP]).forward(obs, inputs.drawn["next_noise"])
    return q_at(nets.target_critic, obs, action, nets.target_critic.aggregation)[0]


@dataclass(frozen=True)
class OneStep(Chain):
    """a = μ(s, z), z = noise."""

    words: ClassVar[dict[str, str]] = {
        "v": "the one-step policy's output μ",
        "a": "the noise z",
        "action": "the final action",
    }

    def steps(self, T: int) -> int:
        """1."""
        return 1

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        """μ(s, z)."""
        return net.forward(obs, x)[0]


@dataclass(frozen=True)
class FQLAgent(ActorAgent):
    """Acts by one call of its one-step policy: clip(μ(s, z))."""

    settings: FQLSettings = FQLSettings()
    actor: ClassVar[str] = ONE_STEP
    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"q_aggregation": "mean", "action_clip_eps": 0.0},
        "cube-triple": {"alpha": 1000.0},
        "cube-quadruple": {"alpha": 1000.0},
        "puzzle-4x4": {"alpha": 1000.0},
        "scene": {"alpha": 300.0},
    }

    def with_settings(self, settings: FQLSettings) -> FQLAgent:
        """The agent of these settings."""
        return fql(settings)

    @property
    def chain(self) -> OneStep:
        """Its one step."""
        return OneStep()

    @property
    def acts(self) -> str:
        """In words."""
        return "one-step policy"


def fql(settings: FQLSettings) -> FQLAgent:
    """FQL with IQL's critic, or with one that bootstraps from the one-step policy."""
    norm = settings.actor_layer_norm
    actors = (
        Part(CLONE, ("obs", "action", "raw_time"), "action", layer_norm=norm),
        Part(ONE_STEP, ("obs", "noise"), "action", acting=True, layer_norm=norm),
    )
    parts: tuple[Part, ...]
    if settings.critic_loss_type == "iql":
        parts = (*actors, *CRITIC_PARTS)
        recipe = FQLRecipe(value_aggregation=lambda name: "min", parts=parts, settings=settings)
    else:
        parts = (*actors, *(part for part in CRITIC_PARTS if part.name != "value"))
        reads = (ONE_STEP, "target_critic")
        recipe = FQLRecipe(
            bootstrap=next_q, next_draws=(NEXT_NOISE,), next_reads=reads, parts=parts,
            settings=settings,
        )  # fmt: skip
    return FQLAgent("fql", parts, recipe, settings=settings)


FQL = fql(FQLSettings())
