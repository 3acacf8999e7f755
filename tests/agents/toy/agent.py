"""An agent that none of the package's code knows: behaviour cloning by regression on noise, and a
critic that bootstraps from the actor. With `losses.py`, all that a user writes for one.

    qgf-ref train TASK --agent tests.agents.toy.agent:TOY
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.agents.agent import Acting, Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.part import Part
from qgf_ref.agents.recipe import PlainRecipe
from qgf_ref.agents.stage import Draw, Stage
from qgf_ref.arrays import Array
from qgf_ref.ops.ensemble import ensemble_reduce
from tests.agents.toy.losses import NoiseToAction, bootstrapped_critic, regression


@dataclass(frozen=True)
class NoiseAgent(Agent):
    """Acts by one call of its actor, clipped; expects what its target critic says."""

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """clip(μ(s, z)), (B, D)."""
        self.require(checkpoint, how)
        actor, dtype = checkpoint.network("actor"), checkpoint.dtype
        return np.clip(actor.forward(obs.astype(dtype), noise.astype(dtype))[0], -1, 1)

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """The aggregated target critic, (B,)."""
        critic = checkpoint.network("target_critic")
        q, _ = critic.forward(obs.astype(chunks.dtype), chunks)
        return ensemble_reduce(q, critic.aggregation)[0]


PARTS = (
    Part("actor", ("obs", "noise"), "action", acting=True, kind=NoiseToAction),
    Part("critic", ("obs", "action"), "scalar", ensemble=True),
    Part("target_critic", ("obs", "action"), "scalar", True, target_of="critic", acting=True),
)
Z, NEXT_Z = (
    Draw(name, lambda rng, batch, hyper: rng.standard_normal(batch.action.shape))
    for name in ("z", "next_z")
)
STAGES = (
    Stage("actor", ("actor",), regression, (Z,)),
    Stage("critic", ("critic",), bootstrapped_critic, (NEXT_Z,), reads=("actor", "target_critic")),
)
TOY = NoiseAgent("toy", PARTS, PlainRecipe(parts=PARTS, stages=STAGES))
