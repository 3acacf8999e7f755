"""EDP: a flow policy that clones the behaviour and climbs the critic at its one-step estimate.

Source: baselines.md, section 4; Kang et al., Efficient Diffusion Policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.critics import CriticRecipe
from qgf_ref.agents.iql import PARTS
from qgf_ref.agents.part import Part
from qgf_ref.agents.settings import OwnSettings, setting
from qgf_ref.agents.stage import FLOW_TIMES, NOISE, Loss, Stage, StageInputs
from qgf_ref.losses.edp import edp_loss


@dataclass(frozen=True)
class EDPSettings(OwnSettings):
    """The official code's options, under their names."""

    bc_weight: float = setting(1.0, "weight of cloning the behaviour")


@dataclass(frozen=True)
class EDPRecipe(CriticRecipe):
    """The policy's loss, and IQL's critic and value; no loss of these reads the policy."""

    parts: ClassVar[tuple[Part, ...]] = PARTS
    resident: bool = True
    settings: EDPSettings = EDPSettings()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The policy's loss, the critic's and the value's."""
        draws, reads = (NOISE, FLOW_TIMES), ("target_critic",)
        return Stage("policy", ("policy",), self._policy, draws, reads), *self.critic_stages

    def _policy(self, inputs: StageInputs) -> Loss:
        """`qgf_ref.losses.edp.edp_loss`."""
        nets, batch = inputs.nets, inputs.batch
        x0, x1, t = inputs.drawn["x0"], batch.action, inputs.drawn["t"]
        own = self.settings.bc_weight
        loss, bar = edp_loss(nets.policy, nets.target_critic, batch.obs, x0, x1, t, own)
        return loss, {"policy": bar}


@dataclass(frozen=True)
class EDPAgent(FlowAgent):
    """Acts by its flow, as the paper's agent does, best of N by the target critic."""

    settings: EDPSettings = EDPSettings()
    usual: ClassVar[str] = "none"
    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {},
        "cube-triple": {"bc_weight": 100.0},
        "cube-quadruple": {"bc_weight": 300.0},
        "puzzle-4x4": {"bc_weight": 300.0},
        "scene": {"bc_weight": 30.0},
    }

    def with_settings(self, settings: EDPSettings) -> EDPAgent:
        """The agent of these settings."""
        return edp(settings)


def edp(settings: EDPSettings) -> EDPAgent:
    """EDP of these settings."""
    return EDPAgent("edp", PARTS, EDPRecipe(settings=settings), settings=settings)


EDP = edp(EDPSettings())
