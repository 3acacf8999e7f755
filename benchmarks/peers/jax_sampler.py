"""The guided sampler once more in JAX and flax, as a porter writes it: a peer for the cross-check.

Structure and order of operations follow the official code (official.md, section 5). Everything is
float32 and jitted; gradients come from `jax.grad`. Needs the `peers` extra; imports nothing of
`qgf_ref` but containers and errors. `Port` is made of small methods so that
`benchmarks.peers.jax_mistakes` can replace one of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_networks import ACTIVATIONS, REDUCTIONS, NetworkPort, Shape, Tree
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name

ESTIMATORS = ("none", "ood", "qgf", "qgf_jacobian", "bptt")


class Step(NamedTuple):
    """One denoising step: obs (B, O), a (B, D), k, t = k/T, v (B, D), w, the step before's g."""

    obs: Any
    a: Any
    k: Any
    t: Any
    v: Any
    w: Any
    before: Any


@dataclass(frozen=True)
class Port(NetworkPort):
    """The sampler without its parameters. Ports that are equal share their compiled functions."""

    guide_critic = rank_critic = "target_critic"

    def query_clip(self, x: Any) -> Any:
        """To the actions' bound."""
        return jnp.clip(x, -1, 1)

    def remaining(self, s: Step) -> Any:
        """The time that the one-step estimate skips."""
        return 1 - s.t

    def estimate(self, s: Step, a: Any, v: Any) -> Any:
        """one_euler_step_approx, (B, D)."""
        return self.query_clip(a + self.remaining(s) * v)

    def endpoint(self, s: Step, a: Any) -> Any:
        """clip(Euler from t to 1 along v), (B, D)."""

        def euler(a: Any, j: Any) -> Any:
            return jnp.where(j >= s.k, a + self.velocity(s.obs, a, j) / self.T, a), None

        return jnp.clip(jax.lax.scan(euler, a, jnp.arange(self.T))[0], -1, 1)

    def query(self, s: Step) -> Any:
        """Where the critic is asked, (B, D)."""
        if self.estimator == "ood":
            return s.a
        return self.endpoint(s, s.a) if self.estimator == "bptt" else self.estimate(s, s.a, s.v)

    def objective(self, obs: Any, x: Any) -> Any:
        """The scalar that is differentiated."""
        return jnp.sum(self.aggregate(self.members(obs, x, self.guide_critic)))

    def critic_gradient(self, s: Step, x: Any) -> Any:
        """∇Q in its argument, (B, D)."""
        return jax.grad(lambda y: self.objective(s.obs, y))(x)

    def jacobian_gradient(self, s: Step) -> Any:
        """The gradient of Q(s, one-step estimate) in a, (B, D)."""

        def objective(a: Any) -> Any:
            return self.objective(s.obs, self.estimate(s, a, self.velocity(s.obs, a, s.k)))

        return jax.grad(objective)(s.a)

    def bptt_gradient(self, s: Step) -> Any:
        """The gradient of Q(s, endpoint) in a, (B, D)."""
        return jax.grad(lambda a: self.objective(s.obs, self.endpoint(s, a)))(s.a)

    def gradient(self, s: Step, x: Any) -> Any:
        """The estimator's, at the query point x."""
        if self.estimator == "none":
            return jnp.zeros_like(x)
        if self.estimator == "qgf_jacobian":
            return self.jacobian_gradient(s)
        return self.bptt_gradient(s) if self.estimator == "bptt" else self.critic_gradient(s, x)

    def direction(self, s: Step, g: Any) -> Any:
        """g as it is traced and used."""
        return g

    def guidance(self, s: Step) -> tuple[Any, Any, Any]:
        """Query point (B, D), members there (E, B), g (B, D)."""
        x = self.query(s)
        q = self.values(s.obs, x, self.guide_critic)
        return x, q, self.direction(s, self.gradient(s, x))

    def dt(self) -> float:
        """Of the update."""
        return 1 / self.T

    def advance(self, s: Step, x: Any, g: Any) -> Any:
        """a of the next step."""
        return s.a + (s.v + s.w * g) * self.dt()

    def weight(self, w: Any) -> Any:
        """w as it is used."""
        return w

    def start(self, noise: Any) -> Any:
        """a of the first step."""
        return noise

    def step(self, obs: Any, a: Any, k: Any, w: Any, before: Any) -> Step:
        """The step k, its velocity included."""
        return Step(obs, a, k, self.at(self.times, k), self.velocity(obs, a, k), w, before)

    def finish(self, a: Any) -> Any:
        """The action of the chain's end."""
        return jnp.clip(a, -1, 1)

    def output(self, action: Any) -> Any:
        """The chosen action as it is handed out."""
        return action

    def repeated(self, obs: Any, n: int) -> Any:
        """obs (B, O) for n candidates each, (B·n, O)."""
        return np.repeat(obs, n, axis=0)

    def ranked(self, a: Any) -> Any:
        """Where the critic ranks a candidate, of its chain's end."""
        return self.finish(a)

    def rank(self, q: Any) -> Any:
        """The rank of candidates with these members, (E, B·n) → (B·n,)."""
        return self.aggregate(q)

    def choose(self, q: Any) -> Any:
        """The index of the candidate to keep. q (B, n) → (B,)."""
        return jnp.argmax(q, axis=1)


class JaxSampler:
    """A checkpoint's sampler in float32. `port` may be a subclass of `Port`.

    Raises InputError on an estimator, activation or aggregation that this peer lacks, and on
    arrays of the wrong shape.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        estimator: str = "qgf",
        denoise_steps: int | None = None,
        port: type[Port] = Port,
    ) -> None:
        options = checkpoint.options
        for kind, name, valid in (
            ("estimator", estimator, ESTIMATORS),
            ("activation", options.activation, tuple(ACTIVATIONS)),
            ("aggregation", options.q_aggregation, tuple(REDUCTIONS)),
        ):
            if name not in valid:
                raise unknown_name(f"{kind} of the JAX peer", name, valid)
        self.widths = checkpoint.obs_dim, checkpoint.flat_action_dim
        self.port = port(
            options.activation,
            options.q_aggregation,
            estimator,
            options.denoise_steps if denoise_steps is None else denoise_steps,
            options.horizon_length if options.action_chunking else 1,
            Shape.of(checkpoint.policy),
            Shape.of(checkpoint.target_critic),
            checkpoint.target_critic.ensemble or 1,
        )
        self.params: Tree = {"policy": self.port.policy_tree(checkpoint.policy)}
        for name in ("critic", "target_critic"):
            self.params[name] = self.port.critic_tree(name, getattr(checkpoint, name))

    def trace(self, obs: Array, noise: Array, weight: float) -> dict[str, Array]:
        """Every quantity of a run, float32. obs (B, O), noise (B, D).

        obs, noise, action (B, D), and by step a, v, a1_hat (the query point), g (T, B, D) and
        q (T, E, B): names and meaning of `qgf_ref.sampling.Trace`.
        """
        obs, noise = self._inputs(obs, noise, 1)
        last, steps = _chain(self.port, self.params, obs, noise, np.float32(weight))
        action = _best(self.port, self.params, obs, last, 1)
        names = ("obs", "noise", "action", "a", "v", "a1_hat", "q", "g")
        parts = (obs, noise, action, *steps)
        return {name: np.asarray(x) for name, x in zip(names, parts, strict=True)}

    def sample(self, obs: Array, noise: Array, weight: float, best_of: int = 1) -> Array:
        """Actions (B, D), the best of `best_of` each. noise (B·best_of, D), observation-major."""
        obs, noise = self._inputs(obs, noise, best_of)
        rows = self.port.repeated(obs, best_of)
        last, _ = _chain(self.port, self.params, rows, noise, np.float32(weight))
        return np.asarray(_best(self.port, self.params, rows, last, best_of))

    def _inputs(self, obs: Array, noise: Array, best_of: int) -> tuple[Array, Array]:
        O, D = self.widths
        expected = (len(obs), O), (len(obs) * best_of, D)
        if (obs.shape, noise.shape) != expected:
            raise InputError(
                f"obs and noise must have shapes {expected[0]} and {expected[1]}, got {obs.shape} "
                f"and {noise.shape}"
            )
        return obs.astype(np.float32), noise.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _chain(port: Port, params: Tree, obs: Any, noise: Any, weight: Any) -> tuple[Any, Any]:
    """The end of the chain before its clip, and a, v, a1_hat, q, g of every step."""
    port = replace(port, params=params)
    w = port.weight(weight)

    def body(carry: Any, k: Any) -> Any:
        s = port.step(obs, carry[0], k, w, carry[1])
        x, q, g = port.guidance(s)
        return (port.advance(s, x, g), g), (s.a, s.v, x, q, g)

    first = (port.start(noise), jnp.zeros_like(noise))
    (last, _), steps = jax.lax.scan(body, first, jnp.arange(port.T))
    return last, steps


@functools.partial(jax.jit, static_argnums=(0, 4))
def _best(port: Port, params: Tree, obs: Any, last: Any, n: int) -> Any:
    """The action of each observation: clipped, ranked among n, chosen."""
    port = replace(port, params=params)
    action = port.finish(last)
    if n > 1:
        q = port.rank(port.values(obs, port.ranked(last), port.rank_critic)).reshape(-1, n)
        action = action.reshape(len(q), n, -1)[jnp.arange(len(q)), port.choose(q)]
    return port.output(action)
