"""Mistakes in the JAX peer's query point, gradient, update and choice, as replaced methods.

name → {attribute of `Port`: what takes its place}. Those of query point and gradient are written
for the estimator "qgf".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_mistakes_networks import Override
from benchmarks.peers.jax_sampler import Port, Step


def _norm(x: Any) -> Any:
    return jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def _guided_query(self: Port, s: Step) -> Any:
    g0 = self.critic_gradient(s, self.estimate(s, s.a, s.v))
    return self.estimate(s, s.a, s.v + s.w * g0)


def _clip_masked(self: Port, s: Step, x: Any) -> Any:
    _, pull = jax.vjp(lambda y: jnp.clip(y, -1, 1), s.a + (1 - s.t) * s.v)
    return pull(self.critic_gradient(s, x))[0]


def _unclipped_estimate(self: Port, s: Step) -> Any:
    return lambda a: a + (1 - s.t) * self.velocity(s.obs, a, s.k)


def _unmasked_jacobian(self: Port, s: Step, x: Any) -> Any:
    _, pull = jax.vjp(_unclipped_estimate(self, s), s.a)
    return pull(self.critic_gradient(s, x))[0]


def _jvp_for_vjp(self: Port, s: Step, x: Any) -> Any:
    return jax.jvp(_unclipped_estimate(self, s), (s.a,), (self.critic_gradient(s, x),))[1]


def _of_observation(self: Port, s: Step, x: Any) -> Any:
    return jax.grad(lambda obs: self.objective(obs, x))(s.obs)[:, : x.shape[1]]


def _objective(of_members: Callable[[Any], Any]) -> Override:
    def objective(self: Port, obs: Any, x: Any) -> Any:
        return of_members(self.members(obs, x, self.guide_critic))

    return {"objective": objective}


def _direction(scaled: Callable[[Port, Step, Any], Any]) -> Override:
    return {"direction": scaled}


def _step(changed: Callable[[Port, Step, Any, Any], Any]) -> Override:
    return {"advance": changed}


def _first_member(q: Any) -> Any:
    return jnp.take_along_axis(q, jnp.argmin(q, axis=0)[None], axis=0)


def _after_step(self: Port, s: Step) -> Any:
    a = s.a + s.v / self.T
    return Port.guidance(self, self.step(s.obs, a, s.k + 1, s.w, s.before))


def _on_clean_estimate(self: Port, s: Step, x: Any, g: Any) -> Any:
    return s.a + (jnp.clip(x + s.w * g, -1, 1) - s.a) / (1 - s.t) / self.T


def _action_major(self: Port, action: Any) -> Any:
    return action.reshape(len(action), self.H, -1).swapaxes(1, 2).reshape(action.shape)


def _heun(self: Port, s: Step, x: Any, g: Any) -> Any:
    ahead = self.velocity(s.obs, s.a + s.v / self.T, s.k + 1)
    return s.a + ((s.v + ahead) / 2 + s.w * g) / self.T


def _momentum(self: Port, s: Step, g: Any) -> Any:
    return jnp.where(s.k == 0, g, g / 2 + s.before / 2)


QUERY: dict[str, Override] = {
    "query-factor-t": {"remaining": lambda self, s: s.t},
    "query-factor-minus-dt": {"remaining": lambda self, s: 1 - s.t - 1 / self.T},
    "query-factor-1": {"remaining": lambda self, s: 1.0},
    "query-factor-dt": {"remaining": lambda self, s: 1 / self.T},
    "query-unclipped": {"query_clip": lambda self, x: x},
    "query-noisy": {"query": lambda self, s: s.a},
    "query-noisy-clipped": {"query": lambda self, s: jnp.clip(s.a, -1, 1)},
    "query-guided-velocity": {"query": _guided_query},
    "query-clip-0-1": {"query_clip": lambda self, x: jnp.clip(x, 0, 1)},
    "query-clip-inside": {"query_clip": lambda self, x: jnp.clip(x, -1 + 1e-5, 1 - 1e-5)},
}

GRADIENT: dict[str, Override] = {
    "gradient-clip-masked": {"gradient": _clip_masked},
    "gradient-jacobian": {"gradient": lambda self, s, x: self.jacobian_gradient(s)},
    "gradient-jacobian-unmasked": {"gradient": _unmasked_jacobian},
    "gradient-jvp-for-vjp": {"gradient": _jvp_for_vjp},
    "gradient-bptt": {
        "query": lambda self, s: self.endpoint(s, s.a),
        "gradient": lambda self, s, x: self.bptt_gradient(s),
    },
    "gradient-at-noisy-action": {"gradient": lambda self, s, x: self.critic_gradient(s, s.a)},
    "gradient-batch-mean": _direction(lambda self, s, g: g / len(g)),
    "gradient-batch-ensemble-mean": _direction(lambda self, s, g: g / (len(g) * self.E)),
    "gradient-unit-norm": _direction(lambda self, s, g: g / _norm(g)),
    "gradient-norm-clipped": _direction(
        lambda self, s, g: g * jnp.minimum(1, 0.1 / (_norm(g) + 1e-6))
    ),
    "gradient-norm-clipped-batch": _direction(
        lambda self, s, g: g * jnp.minimum(1, 0.2 / (jnp.linalg.norm(g) + 1e-6))
    ),
    "gradient-value-clipped": _direction(lambda self, s, g: jnp.clip(g, -0.05, 0.05)),
    "gradient-sign": _direction(lambda self, s, g: jnp.sign(g)),
    "gradient-times-1-t": _direction(lambda self, s, g: (1 - s.t) * g),
    "gradient-times-t": _direction(lambda self, s, g: s.t * g),
    "gradient-over-1-t": _direction(lambda self, s, g: g / (1 - s.t)),
    "gradient-velocity-norm": _direction(lambda self, s, g: g * (_norm(s.v) / _norm(g))),
    "gradient-negated": _direction(lambda self, s, g: -g),
    "gradient-of-observation": {"gradient": _of_observation},
    "gradient-action-mean": _direction(lambda self, s, g: g / g.shape[1]),
}

AGGREGATION: dict[str, Override] = {
    "ensemble-mean": _objective(lambda q: jnp.sum(jnp.mean(q, axis=0))),
    "ensemble-sum": _objective(lambda q: jnp.sum(q)),
    "ensemble-max": _objective(lambda q: jnp.sum(jnp.max(q, axis=0))),
    "ensemble-member-0": _objective(lambda q: jnp.sum(q[0])),
    "ensemble-min-of-batch-sum": _objective(lambda q: jnp.min(jnp.sum(q, axis=1))),
    "ensemble-min-over-batch": _objective(lambda q: jnp.sum(jnp.min(q, axis=1))),
    "ensemble-min": _objective(lambda q: jnp.sum(jnp.min(q, axis=0))),
    "ties-first": _objective(lambda q: jnp.sum(_first_member(q))),
    "critic-online": {"guide_critic": "critic"},
}

UPDATE: dict[str, Override] = {
    "guidance-without-dt": _step(lambda self, s, x, g: s.a + s.v / self.T + s.w * g),
    "weight-inverted": {"weight": lambda self, w: jnp.where(w > 0, 1 / w, w)},
    "weight-squared": {"weight": lambda self, w: w * w},
    "weight-default-1": {"weight": lambda self, w: jnp.ones_like(w)},
    "weight-zero-as-default": {"weight": lambda self, w: jnp.where(w == 0, 1, w)},
    "weight-integer": {"weight": lambda self, w: jnp.trunc(w)},
    "guidance-missing": _step(lambda self, s, x, g: s.a + s.v / self.T),
    "guidance-convex": _step(lambda self, s, x, g: s.a + ((1 - s.w) * s.v + s.w * g) / self.T),
    "guidance-on-clean-estimate": _step(_on_clean_estimate),
    "guidance-after-step": {"guidance": _after_step},
    "steps-plus-1": {"dt": lambda self: 1 / (self.T + 1)},
    "steps-minus-1": {"dt": lambda self: 1 / max(self.T - 1, 1)},
    "clip-every-step": _step(lambda self, s, x, g: jnp.clip(s.a + (s.v + s.w * g) / self.T, -1, 1)),
    "final-clip-missing": {"finish": lambda self, a: a},
    "noise-clipped": {"start": lambda self, noise: jnp.clip(noise, -1, 1)},
    "chunk-action-major": {"output": _action_major},
}

BEST_OF: dict[str, Override] = {
    "best-of-tiled": {"repeated": lambda self, obs, n: jnp.tile(obs, (n, 1))},
    "best-of-ranks-unclipped": {"ranked": lambda self, a: a},
    "best-of-argmin": {"choose": lambda self, q: jnp.argmin(q, axis=1)},
    "best-of-mean": {"rank": lambda self, q: jnp.mean(q, axis=0)},
    "best-of-online": {"rank_critic": "critic"},
    "best-of-whole-batch": {"choose": lambda self, q: jnp.full(len(q), jnp.argmax(q) % q.shape[1])},
    "best-of-last": {"choose": lambda self, q: q.shape[1] - 1 - jnp.argmax(q[:, ::-1], axis=1)},
    "best-of-ignored": {"choose": lambda self, q: jnp.zeros(len(q), int)},
}

HELD_OUT_SAMPLER: dict[str, Override] = {
    "unknown-gradient-softmin": _objective(
        lambda q: -jnp.sum(jax.nn.logsumexp(-5 * q, axis=0)) / 5
    ),
    "unknown-gradient-momentum": _direction(_momentum),
    "unknown-query-clip-0.9": {"query_clip": lambda self, x: jnp.clip(x, -0.9, 0.9)},
    "unknown-heun": _step(_heun),
    "unknown-weight-schedule": _step(
        lambda self, s, x, g: s.a + (s.v + s.w * (1 - s.t) * g) / self.T
    ),
    "unknown-final-tanh": {"finish": lambda self, a: jnp.tanh(a)},
}
