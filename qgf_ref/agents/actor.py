"""An agent that acts otherwise than by a guided flow, and says what its target critic expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qgf_ref.agents.agent import Acting, Agent
from qgf_ref.arrays import Array, matrix
from qgf_ref.backends.engine import Engine, EngineLike
from qgf_ref.backends.program.record import Actor
from qgf_ref.errors import InputError
from qgf_ref.flow.chain import Chain, chain_end, chain_steps
from qgf_ref.nets.networks import forward_only
from qgf_ref.ops.clip import clip
from qgf_ref.ops.ensemble import ensemble_reduce

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint


@dataclass(frozen=True)
class ActorAgent(Agent):
    """Acts by its network `actor` along `chain`, and clips what comes out. A subclass says how.

    acts  its sampler in words
    """

    actor: ClassVar[str] = "actor"

    @property
    def chain(self) -> Chain:
        """How it makes actions of noise."""
        raise NotImplementedError(f"the agent {self.name} does not say how it acts")

    @property
    def acts(self) -> str:
        """Its sampler in words."""
        return self.name

    def drawn(self, noise: Array, steps: int) -> Array | None:
        """The noise z (T, B, D) that its steps add, if they add any."""
        return None

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """Action chunks (B, D) for obs (B, O) from standard normal noise (B·best_of, D)."""
        self.require(checkpoint, how)
        dtype = checkpoint.dtype
        obs = matrix(obs, "obs", columns=checkpoint.obs_dim, dtype=dtype)
        noise = matrix(noise, "noise", columns=checkpoint.flat_action_dim, dtype=dtype)
        return self.chunks(checkpoint, obs, noise, how)

    def chunks(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """`act` of arrays that fit the checkpoint, in its dtype."""
        net, T = checkpoint.acting_networks[self.actor], checkpoint.options.denoise_steps
        actor = Actor(net, self.drawn(noise, T))
        return clipped_end(self.chain, actor, obs, noise, T, Engine.of(how.backend))

    def trace(
        self,
        checkpoint: Checkpoint,
        obs: Array,
        noise: Array,
        z: Array | None = None,
        backend: EngineLike = "numpy",
    ) -> dict[str, Array]:
        """`act` with every quantity of every step, as a trace file has them.

        obs (B, O), noise (B, D), and z (T, B, D) that the steps add (default: the agent's own).
        returns obs, noise, z of an agent that draws it; by step, (N, B, D), what `Chain.words`
        names; and action (B, D). Raises InputError on other shapes.
        """
        dtype, T = checkpoint.dtype, checkpoint.options.denoise_steps
        obs = matrix(obs, "obs", columns=checkpoint.obs_dim, dtype=dtype)
        noise = matrix(noise, "noise", columns=checkpoint.flat_action_dim, dtype=dtype)
        z = np.asarray(z, dtype) if z is not None and self.chain.draws else self.drawn(noise, T)
        _require_fitting(self.chain, obs, noise, z, T)
        net = self.acting(checkpoint, self.actor, Acting(backend=backend))
        steps = list(chain_steps(self.chain, net, obs, noise, z, T))
        every = {
            "a": [step.state for step in steps],
            "v": [step.output for step in steps],
            "a1_hat": [step.estimate for step in steps],
        }
        by_step = {name: np.stack(x) for name, x in every.items() if name in self.chain.words}
        drawn = {} if z is None else {"z": z}
        action = clip(steps[-1].following)[0]
        return {"obs": obs, "noise": noise, **drawn, **by_step, "action": action}

    def acting(self, checkpoint: Checkpoint, part: str, how: Acting) -> Any:
        """A network of the checkpoint for forwards alone, on the backend that `how` names."""
        kernels = Engine.of(how.backend).backend.kernels(checkpoint.dtype)
        precision = checkpoint.time_precision("acting")
        settings = checkpoint.network_settings(precision, kernels)
        return forward_only(checkpoint.network(part, settings))

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """The aggregated target critic (B,) of the chunks (B, D)."""
        critic = checkpoint.network("target_critic")
        q, _ = critic.forward(obs.astype(chunks.dtype), chunks)
        return ensemble_reduce(q, critic.aggregation)[0]


def clipped_end(
    chain: Chain, actor: Actor, obs: Array, noise: Array, T: int, engine: Engine
) -> Array:
    """`chain_end`, clipped to ±1: on an engine that records, one compiled program.

    obs (B, O), noise (B, D), `actor.z` (T, B, D) of a chain that draws, in the network's dtype.
    Raises InputError on another number of rows, or z of another shape.
    """
    _require_fitting(chain, obs, noise, actor.z, T)

    def run(actor: Actor, obs: Array, noise: Array, weight: Any) -> tuple[Array, ...]:
        end = chain_end(chain, actor.net, obs, noise, actor.z, T)
        return (actor.net.kernels(clip, end)[0],)

    return engine.run_actor(actor, run, (chain, T), obs, noise)[0]


def _require_fitting(chain: Chain, obs: Array, noise: Array, z: Any, T: int) -> None:
    """Compiled code would read on, past the end of what is too short."""
    if len(noise) != len(obs):
        raise InputError(f"noise must have a row for each of {len(obs)}, got {len(noise)}")
    if chain.draws and np.shape(z) != (T, *noise.shape):
        raise InputError(f"z must have shape {(T, *noise.shape)}, got {np.shape(z)}")
