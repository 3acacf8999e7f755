"""The training updates of QAM, DAC and QSM in plain JAX, and all by name: see `jax_actors`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_actors import EDP, FQL, AgentUpdate
from benchmarks.peers.jax_dqc import DQC
from benchmarks.peers.jax_update import mlp


class QAM(AgentUpdate):
    """Section 6."""

    base, guide, next_flow = "target_actor_slow", "target_critic", "actor_fast"
    groups: Any = (("actor_fast", "actor_slow"), ("critic", "value"))
    value_target = FQL.value_target

    def received(self, bar: Any) -> Any:
        """Clipped by two joint norms."""
        return self.clipped(bar, self.groups, self.own.clip_grad)

    def sigma(self, i: int) -> float:
        """σ_i."""
        h = 1 / self.T
        return math.sqrt(2 * (1 - i * h + h) / (i * h + h))

    def actor_losses(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """Adjoint matching, and cloning of the slow flow."""
        _, error, _ = self.cloning(learned["actor_slow"], batch)
        adjoint = self.matching(learned["actor_fast"], frozen, batch)
        return {"actor_slow": self.cloned(error, batch), "actor_fast": adjoint}

    def cloned(self, error: Any, batch: Any) -> Any:
        """L_F."""
        return jnp.mean(batch["valid"][:, None] * error)

    def matching(self, fast: Any, frozen: Any, batch: Any) -> Any:
        """L without L_F."""
        points, last = self.path(frozen, batch)
        adjoint, obs, total = self.adjoint(frozen, batch, points, last), batch["obs"], 0.0
        for i in range(self.T):
            s, v = self.sigma(i), self.flow(fast, obs, points[i], np.float32(i / self.T))
            away = v - self.base_velocity(frozen, obs, points[i], i)
            total += self.residual(2 / s * away + s * jax.lax.stop_gradient(adjoint[i]), batch)
        return total

    def base_velocity(self, frozen: Any, obs: Any, x: Any, i: int) -> Any:
        """ṽ in the residual."""
        return self.flow(frozen[self.base], obs, x, np.float32(i / self.T))

    def residual(self, r: Any, batch: Any) -> Any:
        """A step's share of the loss."""
        return jnp.mean(jnp.sum(r * r, -1))

    def path(self, frozen: Any, batch: Any) -> Any:
        """([x_0 … x_{T−1}], x_T)."""
        x, points = batch["adj_x0"], []
        for i in range(self.T):
            points.append(x)
            x = self.moved(frozen, batch, x, i) if i < self.T - 1 else self.ended(frozen, batch, x)
        return points, x

    def moved(self, frozen: Any, batch: Any, x: Any, i: int) -> Any:
        """An SDE step of the fast flow."""
        h, t = 1 / self.T, i / self.T
        drift = 2 * self.flow(frozen["actor_fast"], batch["obs"], x, np.float32(t)) - x / (t + h)
        return x + h * drift + math.sqrt(h) * self.sigma(i) * batch["adj_noise"][i]

    def ended(self, frozen: Any, batch: Any, x: Any) -> Any:
        """The last step."""
        t = np.float32((self.T - 1) / self.T)
        return x + self.flow(frozen[self.base], batch["obs"], x, t) / self.T

    def adjoint(self, frozen: Any, batch: Any, points: Any, last: Any) -> Any:
        """[g_0 … g_{T−1}]."""
        g, h = self.start(frozen, batch, last), 1 / self.T
        adjoint: list[Any] = []
        for i in reversed(range(self.T)):
            t = i / self.T + h
            x = self.adjoint_point(points, last, i)
            _, vjp = jax.vjp(lambda a, n=i: self.adjoint_flow(frozen, batch["obs"], a, n), x)
            g = g + h * (2 * vjp(g)[0] - g / t)
            adjoint.insert(0, g)
        return adjoint

    def adjoint_point(self, points: Any, last: Any, i: int) -> Any:
        """Where J_i is taken."""
        return points[i]

    def adjoint_flow(self, frozen: Any, obs: Any, x: Any, i: int) -> Any:
        """What J_i is the Jacobian of."""
        return self.flow(frozen[self.base], obs, x, np.float32((i + 1) / self.T))

    def start(self, frozen: Any, batch: Any, last: Any) -> Any:
        """g_T."""

        def q(x: Any) -> Any:
            members = self.members(frozen[self.guide], batch["obs"], self.query(x))
            return self.summed(self.climbed(members))

        return -self.own.inv_temp * jax.grad(q)(last)

    def summed(self, q: Any) -> Any:
        """A number whose gradient is every row's own."""
        return jnp.sum(q)

    def climbed(self, members: Any) -> Any:
        """q (B,)."""
        return jnp.mean(members, 0)

    def next_action(self, frozen: Any, batch: Any) -> Any:
        """The best of n ends of the flow, by the online critic."""
        noise, obs = batch["next_noise"], batch["next_obs"]
        ends = [
            jnp.clip(self.euler(frozen[self.next_flow], obs, noise[:, i]), -1, 1)
            for i in range(noise.shape[1])
        ]
        q = jnp.stack([jnp.mean(self.members(frozen["critic"], obs, a), 0) for a in ends])
        best = jnp.argmax(q, 0)
        return jnp.stack(ends)[best, jnp.arange(len(obs))]


class Diffusion(AgentUpdate):
    """Section 7: DAC, and with a temperature QSM."""

    guide = "target_critic"
    value_target = FQL.value_target

    def received(self, bar: Any) -> Any:
        """Clipped by one joint norm."""
        return self.clipped(bar, self.groups(), self.own.clip_grad_norm)

    def groups(self) -> Any:
        """What is clipped together."""
        return (self.learned,)

    def hats(self) -> Any:
        """ᾱ_0 … ᾱ_T, as the official code multiplies them."""
        k, T = np.arange(1, self.T + 1), self.T
        betas = 1 - np.exp(-0.1 / T - 0.5 * 9.9 * (2 * k - 1) / T**2)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    def predicted(self, net: Any, obs: Any, x: Any, k: Any) -> Any:
        """ε_θ."""
        frequencies, encoder, layers = net
        cond = self.encoded(encoder, self.features(k, frequencies))
        return mlp(layers, jnp.concatenate(self.inputs(obs, x, cond), -1), mish)

    def features(self, k: Any, frequencies: Any) -> Any:
        """Of the step k (B,)."""
        angle = 2 * jnp.pi * k[:, None].astype(jnp.float32) * frequencies[:, 0]
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)

    def encoded(self, encoder: Any, features: Any) -> Any:
        """cond."""
        return mlp(encoder, features, mish)

    def inputs(self, obs: Any, x: Any, cond: Any) -> Any:
        """In the order in which they are concatenated."""
        return [x, obs, cond]

    def actor_losses(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """L_own + α·L_BC."""
        hat = jnp.asarray(self.hats(), jnp.float32)[batch["k"]][:, None]
        spread, eps = jnp.sqrt(1 - hat), batch["eps"]
        x = jnp.sqrt(hat) * batch["action"] + spread * eps
        e = self.predicted(learned["actor"], batch["obs"], x, batch["k"])
        g = self.gradient(frozen, batch["obs"], x)
        own = jnp.mean(self.weight_own(batch)[:, None] * self.term(e, g, spread))
        cloned = jnp.mean(self.weight_cloning(batch)[:, None] * (e - eps) ** 2)
        return {"actor": own + self.own.alpha * cloned}

    def term(self, e: Any, g: Any, spread: Any) -> Any:
        """What follows the critic, (B, D)."""
        kappa = self.own.temperature
        return spread * g * e if kappa is None else (e + kappa * g) ** 2

    def weight_own(self, batch: Any) -> Any:
        """(B,)."""
        return batch["valid"]

    def weight_cloning(self, batch: Any) -> Any:
        """(B,)."""
        return batch["valid"]

    def gradient(self, frozen: Any, obs: Any, x: Any) -> Any:
        """∇_x mean_j Q_j."""
        return jax.grad(lambda a: self.summed(self.asked(frozen, obs, a)))(x)

    def asked(self, frozen: Any, obs: Any, x: Any) -> Any:
        """q (B,) at the noisy action."""
        return jnp.mean(self.members(frozen[self.guide], obs, x), 0)

    def summed(self, q: Any) -> Any:
        """A number whose gradient is every row's own."""
        return jnp.sum(q)

    def next_action(self, frozen: Any, batch: Any) -> Any:
        """The DDPM sampler's."""
        z = batch["next_z"]
        return self.sampled(frozen["actor"], batch["next_obs"], batch["next_noise"], z)[0]

    def sampled(self, net: Any, obs: Any, x: Any, z: Any) -> tuple[Any, list[tuple[Any, Any, Any]]]:
        """x_0, and x, ε and x̂ of every step."""
        steps = []
        for n, k in enumerate(self.numbers()):
            eps = self.predicted(net, obs, x, jnp.full(len(x), self.told(k)))
            clean = self.cleaned(x, eps, k)
            steps.append((x, eps, clean))
            x = self.mean(clean, x, eps, k)
            if self.noisy(k):
                x = x + self.deviation(k) * self.draw(z, n)
            if self.clips()[1]:
                x = jnp.clip(x, -1, 1)
        return x, steps

    def numbers(self) -> Any:
        """T … 1."""
        return range(self.T, 0, -1)

    def told(self, k: int) -> float:
        """What the network is told."""
        return k

    def at(self, k: int) -> tuple[float, float, float]:
        """α_k, ᾱ_k, ᾱ_(k−1)."""
        hats = self.hats()
        return float(hats[k] / hats[k - 1]), float(hats[k]), float(hats[k - 1])

    def cleaned(self, x: Any, eps: Any, k: int) -> Any:
        """x̂."""
        hat = self.at(k)[1]
        clean = (x - math.sqrt(1 - hat) * eps) / math.sqrt(hat)
        return jnp.clip(clean, -1, 1) if self.clips()[0] else clean

    def mean(self, clean: Any, x: Any, eps: Any, k: int) -> Any:
        """The next x without its noise."""
        if not self.clips()[0]:
            return clean
        alpha, hat, last = self.at(k)
        x = math.sqrt(last) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - last) * x
        return x / (1 - hat)

    def noisy(self, k: int) -> bool:
        """Whether noise follows."""
        return k > 1

    def deviation(self, k: int) -> float:
        """Of the sampler's noise."""
        return math.sqrt(self.variance(*self.at(k)))

    def draw(self, z: Any, n: int) -> Any:
        """Of step n."""
        return z[n]

    def clips(self) -> tuple[bool, bool]:
        """Before and after."""
        return self.own.clip_sampler_before, self.own.clip_sampler_after

    def variance(self, alpha: float, hat: float, last: float) -> float:
        """Of the sampler's noise."""
        return 1 - alpha


def mish(x: Any) -> Any:
    """x·tanh(softplus x)."""
    return x * jnp.tanh(jax.nn.softplus(x))


PEERS: dict[str, type[AgentUpdate]] = {
    "edp": EDP, "fql": FQL, "qam": QAM, "dac": Diffusion, "qsm": Diffusion,
    "dqc": DQC,
}  # fmt: skip
"""By the agent's name."""
