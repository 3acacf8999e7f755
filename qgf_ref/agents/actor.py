"""An agent that acts otherwise than by a guided flow, and says what its target critic expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qgf_ref.agents.agent import Acting, Agent
from qgf_ref.arrays import Array, matrix
from qgf_ref.backends.engine import Engine
from qgf_ref.ops.ensemble import ensemble_reduce

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint


@dataclass(frozen=True)
class ActorAgent(Agent):
    """Acts by networks of its own. A subclass draws chunks in `chunks`."""

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """Action chunks (B, D) for obs (B, O) from standard normal noise (B·best_of, D)."""
        self.require(checkpoint, how)
        dtype = checkpoint.dtype
        obs = matrix(obs, "obs", columns=checkpoint.obs_dim, dtype=dtype)
        noise = matrix(noise, "noise", columns=checkpoint.flat_action_dim, dtype=dtype)
        return self.chunks(checkpoint, obs, noise, how)

    def chunks(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """`act` of arrays that fit the checkpoint, in its dtype."""
        raise NotImplementedError(f"the agent {self.name} does not say how it acts")

    def acting(self, checkpoint: Checkpoint, part: str, how: Acting) -> Any:
        """A network of the checkpoint, on the backend that `how` names."""
        kernels = Engine.of(how.backend).backend.kernels(checkpoint.dtype)
        precision = checkpoint.time_precision("acting")
        return checkpoint.network(part, checkpoint.network_settings(precision, kernels))

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """The aggregated target critic (B,) of the chunks (B, D)."""
        critic = checkpoint.network("target_critic")
        q, _ = critic.forward(obs.astype(chunks.dtype), chunks)
        return ensemble_reduce(q, critic.aggregation)[0]
