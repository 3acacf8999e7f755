"""The training update of DQC in plain JAX: see `jax_actors`. Written from goal_conditioned.md."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_actors import AgentUpdate
from benchmarks.peers.jax_update import mlp, time_embedding


class DQC(AgentUpdate):
    """Sections 2, 3 and 5. Logits are taken of probabilities, as by the official code."""

    backup_critic = "target_action_critic"

    def losses(self, learned: Any, frozen: Any, batch: Any) -> Any:  # type: ignore[override]
        """(their sum, losses)."""
        values = {"policy": self.policy(learned["policy"], batch)}
        if self.own.use_chunk_critic:
            values["chunk_critic"] = self.chunk_critic(learned, frozen, batch)
        values["action_critic"] = self.action_critic(learned, frozen, batch)
        values["value"] = self.value(learned, frozen, batch)
        return sum(values.values()), values

    def policy(self, net: Any, batch: Any) -> Any:
        """Cloning of the chunk."""
        x1, t = self.chunk(batch["action"]), batch["t"]
        x_t = self.point(batch["x0"], x1, t[:, None])
        obs = batch["obs"]
        if self.own.policy_goals:
            obs = self.joined("policy", obs, self.policy_goal(batch))
        v = self.network("policy", net, jnp.concatenate([obs, x_t, self.time(t)], -1))
        return self.cloned((v - self.velocity_target(batch["x0"], x1)) ** 2, batch)

    def cloned(self, error: Any, batch: Any) -> Any:
        """Invalid rows are left out of DQC's own policy's loss."""
        blind = self.own.policy_network == "dqc" and not self.own.policy_goals
        return jnp.mean(self.valid(batch)[:, None] * error) if blind else jnp.mean(error)

    def time(self, t: Any) -> Any:
        """Its columns."""
        return t[:, None] if self.own.policy_network == "dqc" else self.embedding(t)

    def embedding(self, t: Any) -> Any:
        """(B, 16)."""
        return time_embedding(t)

    def network(self, part: str, net: Any, x: Any) -> Any:
        """One network's or member's outputs (B, F)."""
        return (_norm_after if self.after(part) else mlp)(net, x, self.act)

    def after(self, part: str) -> bool:
        """Whether LayerNorm follows the activation."""
        return part != "policy" or self.own.policy_network == "dqc"

    def joined(self, part: str, obs: Any, goal: Any) -> Any:
        """[s, g] as `part` reads it: policy, chunk_critic, action_critic (both copies), value."""
        return jnp.concatenate([obs, goal], -1)

    def goal(self, batch: Any) -> Any:
        """Of critics and value."""
        return batch["goal"]

    def policy_goal(self, batch: Any) -> Any:
        """Of the policy."""
        return batch["policy_goal"]

    def chunk(self, action: Any) -> Any:
        """a_{0:h_a}."""
        return action[:, : action.shape[1] * self.own.policy_chunk_size // self.own.backup_horizon]

    def valid(self, batch: Any) -> Any:
        """(B,)."""
        return batch["valid"][:, self.own.policy_chunk_size - 1]

    def logits(self, part: str, critic: Any, batch: Any, action: Any) -> Any:
        """(E, B)."""
        x = jnp.concatenate([self.joined(part, batch["obs"], self.goal(batch)), action], -1)
        return jax.vmap(lambda member: self.network(part, member, x)[:, 0])(critic)

    def chunk_logits(self, critic: Any, batch: Any) -> Any:
        """Q_C, (E, B)."""
        return self.logits("chunk_critic", critic, batch, batch["action"])

    def action_logits(self, critic: Any, batch: Any) -> Any:
        """Q_P, (E, B)."""
        return self.logits("action_critic", critic, batch, self.chunk(batch["action"]))

    def v(self, value: Any, obs: Any, goal: Any = None) -> Any:
        """V's logit (B,)."""
        return self.network("value", value, self.joined("value", obs, goal))[:, 0]

    def target(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """y (B,)."""
        bootstrap = batch["masks"] * self.bootstrap(learned, frozen, batch)
        return self.bounded(self.reward(batch) + self.discounts(batch) * bootstrap)

    def bounded(self, y: Any) -> Any:
        """To probabilities."""
        return jnp.clip(y, 0, 1)

    def reward(self, batch: Any) -> Any:
        """R."""
        return batch["rewards"]

    def discounts(self, batch: Any) -> Any:
        """γᵏ."""
        return self.hyper.discount ** self.steps(batch)

    def steps(self, batch: Any) -> Any:
        """k."""
        return batch["steps"]

    def bootstrap(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """σ(V(s', g))."""
        return jax.nn.sigmoid(self.v(frozen["value"], self.next_obs(batch), self.goal(batch)))

    def next_obs(self, batch: Any) -> Any:
        """s'."""
        return batch["next_obs"]

    def chunk_critic(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """L_C."""
        z = self.chunk_logits(learned["chunk_critic"], batch)
        return self.mean_of_members(self.regressed(z, self.target(learned, frozen, batch), batch))

    def regressed(self, z: Any, y: Any, batch: Any) -> Any:
        """Each element's loss (E, B)."""
        return bce(z, y)

    def mean_of_members(self, each: Any) -> Any:
        """A loss of (E, B)."""
        return jnp.mean(each)

    def taught(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """Probabilities that the action critic learns, (E, B) or (B,)."""
        if not self.own.use_chunk_critic:
            return self.target(learned, frozen, batch)
        return jax.nn.sigmoid(self.chunk_logits(frozen["chunk_critic"], batch))

    def action_critic(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """L_P."""
        z = self.action_logits(learned["action_critic"], batch)
        each = self.asymmetric("action_critic", z, self.taught(learned, frozen, batch))
        return self.mean_of_distilled(self.weighed("action_critic", each, batch))

    def mean_of_distilled(self, each: Any) -> Any:
        """A loss of (E, B)."""
        return jnp.mean(each)

    def weighed(self, part: str, each: Any, batch: Any) -> Any:
        """With valid."""
        return self.valid(batch) * each

    def asymmetric(self, part: str, z: Any, y: Any) -> Any:
        """Each element's loss: the κ-expectile's or the κ-quantile's."""
        q, kappa = jax.nn.sigmoid(z), self.kappa(part)
        weight = jax.lax.stop_gradient(jnp.where(self.reached(y, q), kappa, 1 - kappa))
        if self.statistic(part) == "expectile":
            return weight * bce(z, y)
        return weight * jnp.abs(z - self.quantile_target(part, y))

    def quantile_target(self, part: str, y: Any) -> Any:
        """Its logit, of distilled quantiles that of 1e-5 … 1 − 1e-5."""
        bound = np.float32(np.log(1 - 1e-5) - np.log(1e-5)) if part == "action_critic" else np.inf
        return jnp.clip(logit(y), -bound, bound)

    def reached(self, y: Any, q: Any) -> Any:
        """Where κ weighs."""
        return y >= q

    def kappa(self, part: str) -> float:
        """κ_d or κ_b."""
        return self.own.kappa_d if part == "action_critic" else self.hyper.expectile

    def statistic(self, part: str) -> str:
        """Its kind."""
        own = self.own
        return own.distill_method if part == "action_critic" else own.implicit_backup_type

    def value(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """L_V."""
        z = self.v(learned["value"], batch["obs"], self.goal(batch))
        q = self.backup(learned, frozen, batch)
        return jnp.mean(self.weighed("value", self.asymmetric("value", z, q), batch))

    def backup(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """q (B,)."""
        z = self.action_logits(frozen[self.backup_critic], batch)
        return self.reduced(jax.nn.sigmoid(z))

    def reduced(self, q: Any) -> Any:
        """Members' probabilities."""
        return self.reduce(q, 0)


def _norm_after(layers: Any, x: Any, act: Any) -> Any:
    """MLP(x) of one network or member, dense → activation → LayerNorm."""
    for i, (kernel, bias, *norm) in enumerate(layers):
        x = x @ kernel + bias
        if i < len(layers) - 1:
            x = act(x)
        if norm:
            mean = jnp.mean(x, -1, keepdims=True)
            var = jnp.maximum(jnp.mean(x * x, -1, keepdims=True) - mean * mean, 0)
            x = (x - mean) * (jax.lax.rsqrt(var + 1e-6) * norm[0]) + norm[1]
    return x


def bce(z: Any, y: Any) -> Any:
    """−y·log σ(z) − (1 − y)·log σ(−z)."""
    return -(y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z))


def logit(q: Any) -> Any:
    """log q − log(1 − q)."""
    return jnp.log(q) - jnp.log(1 - q)
