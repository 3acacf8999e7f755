"""The training updates of EDP and FQL in plain JAX, and what all five agents' have in common.

An independent second implementation, written from baselines.md as a porter writes it; gradients
come from JAX's autodiff. Every piece is a method, so that `jax_agent_mistakes` can get one wrong.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_update import State, Update, mlp, time_embedding
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.losses.batch import Hyperparameters


class AgentUpdate(Update):
    """advance(state, batch with the draws in it) → (state, gradients, losses)."""

    def __init__(self, checkpoint: Checkpoint, hyper: Hyperparameters) -> None:
        super().__init__(checkpoint, hyper)
        parts = checkpoint.agent.parts
        self.learned = tuple(part.name for part in parts if part.target_of is None)
        self.averages = {part.name: part.target_of for part in parts if part.target_of}
        self.own: Any = checkpoint.agent.settings
        self.T = hyper.denoise_steps

    def gradients(self, params: Any, batch: Any) -> Any:  # type: ignore[override]
        """({learned network: cotangents}, losses)."""
        learned = {name: params[name] for name in self.learned}
        return jax.grad(self.losses, has_aux=True)(learned, params, batch)

    def losses(self, learned: Any, frozen: Any, batch: Any) -> Any:  # type: ignore[override]
        """(their sum, losses)."""
        values = self.actor_losses(learned, frozen, batch)
        values["critic"] = self.critic_loss(learned, frozen, batch)
        if "value" in self.learned:
            values["value"] = self.value_loss(learned, frozen, batch)
        return sum(values.values()), values

    def actor_losses(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """By stage."""
        raise NotImplementedError

    def advance(self, state: State, batch: Any) -> Any:  # type: ignore[override]
        """One update, its gradients and its losses."""
        bar, values = self.gradients(state["params"], batch)
        return self.apply(state, self.received(bar)), bar, values

    def received(self, bar: Any) -> Any:
        """What Adam is given."""
        return bar

    def clipped(self, bar: Any, groups: Any, most: float) -> Any:
        """Each group's gradients by their joint norm."""
        result = dict(bar)
        for group in groups:
            some = {name: bar[name] for name in group if name in bar}
            leaves = jax.tree_util.tree_leaves(some)
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in leaves))
            scale = jnp.where(norm < most, 1.0, most / norm)
            result |= jax.tree_util.tree_map(lambda g, s=scale: g * s, some)
        return result

    def cloning(self, flow: Any, batch: Any) -> Any:
        """(v, its squared error (B, D), x_t) of a flow."""
        x_t = self.point(batch["x0"], batch["action"], batch["t"][:, None])
        v = self.flow(flow, batch["obs"], x_t, batch["t"])
        return v, (v - self.velocity_target(batch["x0"], batch["action"])) ** 2, x_t

    def flow(self, net: Any, obs: Any, x: Any, t: Any) -> Any:
        """v, (B, D); t () or (B,), raw."""
        column = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x),))[:, None]
        return mlp(net, jnp.concatenate([obs, x, column], -1), self.act)

    def members(self, critic: Any, obs: Any, action: Any) -> Any:
        """(E, B)."""
        pair = jnp.concatenate([obs, action], -1)
        return jax.vmap(lambda member: mlp(member, pair, self.critic_act)[..., 0])(critic)

    @property
    def critic_act(self) -> Any:
        """The critics' and the value's."""
        return self.act

    def q(self, critic: Any, batch: Any, obs: str = "obs") -> Any:
        """Members at the batch's actions."""
        return self.members(critic, batch[obs], batch["action"])

    def v(self, value: Any, obs: Any) -> Any:
        """(B,)."""
        return mlp(value, obs, self.critic_act)[..., 0]

    def query(self, action: Any) -> Any:
        """Where a critic is asked."""
        return jnp.clip(action, -1, 1)

    def euler(self, net: Any, obs: Any, noise: Any) -> Any:
        """The flow's endpoint, not clipped."""
        x = noise
        for i in range(self.T):
            x = x + self.flow(net, obs, x, np.float32(i / self.T)) / self.T
        return x

    def bootstrap(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """V(s'), or the target critic of the actor's next action."""
        if "value" in self.learned:
            return self.v(frozen["value"], batch["next_obs"])
        action = self.next_action(frozen, batch)
        critic = frozen[self.next_critic]
        return self.next_value(self.members(critic, batch["next_obs"], action))

    next_critic = "target_critic"

    def next_action(self, frozen: Any, batch: Any) -> Any:
        """a'."""
        raise NotImplementedError

    def next_value(self, q: Any) -> Any:
        """mean − ρ·std over members."""
        return jnp.mean(q, 0) - self.own.rho * jnp.std(q, 0)


class EDP(AgentUpdate):
    """Section 4."""

    actor_critic = "target_critic"

    def flow(self, net: Any, obs: Any, x: Any, t: Any) -> Any:
        """v with an embedded time."""
        return mlp(net, jnp.concatenate([obs, x, self.embedding(t)], -1), self.act)

    def embedding(self, t: Any) -> Any:
        """(B, 16)."""
        return time_embedding(t)

    def actor_losses(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """The policy's."""
        v, error, x_t = self.cloning(learned["policy"], batch)
        u = x_t + (1 - batch["t"])[:, None] * v
        members = self.members(frozen[self.actor_critic], batch["obs"], self.query(u))
        q, cloned = self.climbed(members), self.cloned(error, batch)
        return {"policy": self.own.bc_weight * cloned - self.risen(q, batch)}

    def climbed(self, members: Any) -> Any:
        """q (B,)."""
        return self.reduce(members, 0)

    def cloned(self, error: Any, batch: Any) -> Any:
        """The cloning term."""
        return jnp.mean(error)

    def risen(self, q: Any, batch: Any) -> Any:
        """The term that climbs."""
        return jnp.mean(q)


class FQL(AgentUpdate):
    """Section 5."""

    actor_critic = "critic"

    def one_step(self, net: Any, obs: Any, z: Any) -> Any:
        """μ(s, z)."""
        return mlp(net, jnp.concatenate([obs, z], -1), self.act)

    def actor_losses(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """Of the flow that clones, and of the one-step policy."""
        _, error, _ = self.cloning(learned["actor_bc_flow"], batch)
        mu = self.one_step(learned["actor_onestep_flow"], batch["obs"], batch["z"])
        end = self.endpoint(learned, frozen, batch)
        members = self.members(frozen[self.actor_critic], batch["obs"], self.query(mu))
        q = self.climbed(members)
        followed = self.followed(mu, end, batch)
        return {
            "actor_bc_flow": self.cloned(error, batch),
            "actor_onestep_flow": self.own.alpha * followed - self.risen(q, batch),
        }

    def endpoint(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """a*."""
        return jnp.clip(self.euler(frozen["actor_bc_flow"], batch["obs"], batch["z"]), -1, 1)

    def climbed(self, members: Any) -> Any:
        """q (B,)."""
        return jnp.mean(members, 0)

    def cloned(self, error: Any, batch: Any) -> Any:
        """L_F."""
        return jnp.mean(batch["valid"][:, None] * error)

    def followed(self, mu: Any, end: Any, batch: Any) -> Any:
        """L_D."""
        return jnp.mean(batch["valid"][:, None] * (mu - end) ** 2)

    def risen(self, q: Any, batch: Any) -> Any:
        """−L_π."""
        return jnp.mean(batch["valid"] * q)

    def value_target(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """The minimum, whatever the options say."""
        return jnp.min(self.q(frozen["target_critic"], batch), 0)

    def next_action(self, frozen: Any, batch: Any) -> Any:
        """c(μ(s', z'))."""
        mu = self.one_step(frozen["actor_onestep_flow"], batch["next_obs"], batch["next_noise"])
        return jnp.clip(mu, -1, 1)

    def next_value(self, q: Any) -> Any:
        """By the options' reduction."""
        return self.reduce(q, 0)
