"""QAM: a slow flow clones the behaviour, and adjoint matching tilts a fast one by the critic.

Source: baselines.md, section 6; Q-learning with Adjoint Matching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from qgf_ref.agents.agent import Acting, FlowAgent
from qgf_ref.agents.cloning import cloning_stage
from qgf_ref.agents.critics import CRITIC_PARTS, CriticRecipe
from qgf_ref.agents.part import NetworkSettings, Part
from qgf_ref.agents.settings import OwnSettings, setting
from qgf_ref.agents.stage import NOISE, Draw, Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.actor import best_action, endpoint, pessimistic_q
from qgf_ref.losses.clipping import clipped_by_norm
from qgf_ref.losses.qam import AdjointPath, Schedule, adjoint_matching, adjoint_path, sigma
from qgf_ref.ops.clip import clip
from qgf_ref.sampling import sample

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint

FAST, SLOW, TARGET_SLOW = "actor_fast", "actor_slow", "target_actor_slow"
GROUPS = ((FAST, SLOW), ("critic", "value"))
"""Whose gradients are clipped together."""
START = Draw("adj_x0", NOISE.sample)
"""x_0 (B, D), standard normal: where the simulated path starts."""
PATH_NOISE = Draw(
    "adj_noise",
    lambda rng, batch, hyper: rng.standard_normal((hyper.denoise_steps, *batch.action.shape)),
    row_axis=1,
)
"""(T, B, D), standard normal, of the simulated path; the last is drawn and never used."""


@dataclass(frozen=True)
class QAMSettings(OwnSettings):
    """The official code's options, under their names."""

    inv_temp: float = setting(0.1, "κ: how far the critic tilts the flow; 0: the slow flow acts")
    critic_loss_type: Literal["iql", "ddpg"] = setting(
        "iql", "ddpg: the critic bootstraps from the actor, and there is no value"
    )
    rho: float = setting(0.0, "a bootstrapped critic's target is the mean − rho·std of members")
    best_of_n: int = setting(1, "candidates for the next action of a bootstrapped critic")
    clip_grad: float = setting(1.0, "largest joint norm of a group's gradients; ≤ 0: any")
    clip_adj: bool = setting(True, "the adjoint starts at the clipped action, with its mask")
    target_actor: bool = setting(True, "the base flow is the slow one's moving average")
    use_target_grad: bool = setting(True, "the adjoint starts from the target critic's gradient")
    actor_layer_norm: bool = setting(False, "LayerNorm in the actor's networks")

    @property
    def field(self) -> str:
        """The flow that acts."""
        return FAST if self.inv_temp else SLOW


@dataclass(frozen=True)
class QAMRecipe(CriticRecipe):
    """Cloning, adjoint matching, and the critic's losses, from the networks before the update.

    path and schedule: `qgf_ref.losses.qam.adjoint_path` and the size of the noise along it.
    """

    parts: tuple[Part, ...] = ()  # type: ignore[misc]
    resident: bool = True
    settings: QAMSettings = QAMSettings()
    path: Callable[..., AdjointPath] = adjoint_path
    schedule: Schedule = sigma

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The slow flow's loss, the fast one's, the critic's and the value's."""
        slow = cloning_stage(SLOW)
        fast = Stage(
            FAST, (FAST,), self._fast, (START, PATH_NOISE), (self.base, self.guide),
            self._path, each_step={self.base: 6},  # with the fast flow's, and small calls
        )  # fmt: skip
        return slow, fast, *self.critic_stages

    @property
    def base(self) -> str:
        """The flow along which the adjoint runs."""
        return TARGET_SLOW if self.settings.target_actor else SLOW

    @property
    def guide(self) -> str:
        """The critic from whose gradient the adjoint starts."""
        return "target_critic" if self.settings.use_target_grad else "critic"

    def _path(self, inputs: StageInputs) -> Array:
        """`qgf_ref.losses.qam.adjoint_path`, (3, T, D, B); no gradient flows into it."""
        nets, own, drawn = inputs.nets, self.settings, inputs.drawn
        path = self.path(
            nets[FAST], nets[self.base], nets[self.guide], inputs.batch.obs,
            drawn["adj_x0"], drawn["adj_noise"], own.inv_temp, own.clip_adj, self.schedule,
        )  # fmt: skip
        return np.stack(path).swapaxes(-1, -2).copy()

    def _fast(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.qam.adjoint_matching`."""
        assert inputs.fixed is not None
        path = AdjointPath(*inputs.fixed.swapaxes(-1, -2).copy())
        loss, bar = adjoint_matching(inputs.nets[FAST], inputs.batch.obs, path, self.schedule)
        return loss, {FAST: bar}


def next_q(settings: QAMSettings, inputs: StageInputs) -> Array:
    """mean_j Q̄_j − ρ·std_j Q̄_j (B,) at s' and the acting flow's action, the best of n."""
    nets, obs, noise = inputs.nets, inputs.batch.next_obs, inputs.drawn["next_noise"]
    field, n = nets[settings.field], settings.best_of_n
    start = noise.reshape(-1, noise.shape[-1])
    ends = endpoint(field, np.repeat(obs, n, axis=0), start, inputs.hyper.denoise_steps)
    actions = field.kernels(clip, ends)[0].reshape(noise.shape)
    return pessimistic_q(
        nets.target_critic, obs, best_action(nets.critic, obs, actions), settings.rho
    )


@dataclass(frozen=True)
class QAMAgent(FlowAgent):
    """Acts by its fast flow, best of N by the *online* critic's mean; the target critic guides."""

    settings: QAMSettings = QAMSettings()
    usual: ClassVar[str] = "none"
    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {"q_aggregation": "mean"}}

    def with_settings(self, settings: QAMSettings) -> QAMAgent:
        """The agent of these settings."""
        return qam(settings)

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """Action chunks (B, D) for obs (B, O) from noise (B·best_of, D)."""
        if how.best_of == 1 or how != Acting(best_of=how.best_of, backend=how.backend):
            return super().act(checkpoint, obs, noise, how)
        settings = checkpoint.network_settings(checkpoint.time_precision("acting"))
        flow = replace(checkpoint.acting_flow, critic=self.ranking(checkpoint, settings))
        return sample(flow, obs, noise=noise, **vars(how))

    def ranking(self, checkpoint: Checkpoint, settings: NetworkSettings) -> Any:
        """The online critic, by its members' mean."""
        return replace(checkpoint.network("critic", settings), aggregation="mean")


def qam(settings: QAMSettings) -> QAMAgent:
    """QAM with IQL's critic, or with one that bootstraps from its acting flow."""
    norm, field = settings.actor_layer_norm, settings.field

    def flow(name: str, target_of: str | None = None) -> Part:
        return Part(
            name, ("obs", "action", "raw_time"), "action", target_of=target_of,
            acting=name == field, layer_norm=norm,
        )  # fmt: skip

    parts: tuple[Part, ...] = (flow(FAST), flow(SLOW), flow(TARGET_SLOW, SLOW))
    most = settings.clip_grad
    jointly = partial(clipped_by_norm, groups=GROUPS, most=most) if most > 0 else None
    if settings.critic_loss_type == "iql":
        parts = (*parts, *CRITIC_PARTS)
        recipe = QAMRecipe(
            jointly=jointly, value_aggregation=lambda name: "min", parts=parts, settings=settings
        )
    else:
        parts = (*parts, *(part for part in CRITIC_PARTS if part.name != "value"))
        n = settings.best_of_n
        noise = Draw(
            "next_noise",
            lambda rng, batch, hyper: rng.standard_normal(
                (len(batch.action), n, batch.action.shape[1])
            ),
        )
        recipe = QAMRecipe(
            jointly=jointly, bootstrap=partial(next_q, settings), next_draws=(noise,),
            next_reads=(field, "target_critic"), parts=parts, settings=settings,
        )  # fmt: skip
    return QAMAgent("qam", parts, recipe, field=field, settings=settings)


QAM = qam(QAMSettings())
