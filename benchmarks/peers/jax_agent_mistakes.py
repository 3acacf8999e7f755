"""Wrong training steps of EDP, FQL, QAM, DAC, QSM and DQC, planted in their JAX peers.

As in `jax_training_mistakes`, whose mistakes in critic, value and optimiser are planted here, too:
methods are replaced, gradients are JAX's, nothing is shared with the bank but the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_actors import AgentUpdate
from benchmarks.peers.jax_agents import PEERS, mish
from benchmarks.peers.jax_dqc_mistakes import PLANTED as DQC
from benchmarks.peers.jax_training_mistakes import PLANTED, tree
from benchmarks.peers.jax_update import initial_state, inputs, mlp, time_embedding
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch, Hyperparameters

Methods = dict[str, Any]


def training_step(
    checkpoint: Checkpoint, hyper: Hyperparameters, updates: int, peer: type[AgentUpdate]
) -> Callable[..., dict[str, Any]]:
    """The peer, as `qgf_ref.crosscheck.update.check.check_losses` calls it."""
    update, recipe = peer(checkpoint, hyper), checkpoint.agent.require_recipe()
    names = [draw.name for draw in recipe.draws]

    def named(kind: str, of: Mapping[str, Any]) -> dict[str, Any]:
        return {
            f"{kind}/{part}": dict(
                zip(
                    (name for name, _ in checkpoint.part(part).named()),
                    map(np.asarray, jax.tree_util.tree_leaves(of[part])),
                    strict=True,
                )
            )
            for part in of
        }

    def step(batch: Batch, *arrays: Array) -> dict[str, Any]:
        state, data, made = initial_state(checkpoint), inputs(batch), []
        drawn = dict(zip(names, arrays, strict=True))
        if not updates:
            made.append(update.gradients(state["params"], {**data, **drawn}))
        for n in range(updates):
            now = {name: array[n] for name, array in drawn.items()}
            state, bar, losses = update.advance(state, {**data, **now})
            made.append((bar, losses))
        bar, losses = made[0]
        found = {**losses, **named("grad", bar)}
        if recipe.jointly:
            found |= named("received", update.received(bar))
        return found | (named("params", state["params"]) if updates else {})

    return step


def _in_sequence(*order: str) -> Methods:
    """Each network, in turn, from a whole right update of what it sees; the target with its own."""

    def advance(self: AgentUpdate, state: Any, batch: Any) -> Any:
        bars: dict[str, Any] = {}
        params, losses = dict(state["params"]), dict(bars)
        moments = {kind: dict(state[kind]) for kind in ("mean", "square")}
        for name in (name for name in order if name in self.learned):
            bar, values = self.gradients(params, batch)
            moved = self.apply({**state, "params": params}, bar)
            params[name] = moved["params"][name]
            for target in (t for t, of in self.averages.items() if of == name):
                params[target] = tree(self.average, params[target], params[name], params[name])
            bars[name], losses[name] = bar[name], values[name]
            for kind in moments:
                moments[kind][name] = moved[kind][name]
        return {"params": params, **moments, "count": state["count"] + 1}, bars, losses

    return {"advance": advance}


CLONING: dict[str, Methods] = {
    "velocity-sign": {"velocity_target": lambda self, x0, x1: x0 - x1},
    "velocity-target-is-action": {"velocity_target": lambda self, x0, x1: x1},
    "interpolation-reversed": {"point": lambda self, x0, x1, t: t * x0 + (1 - t) * x1},
}
_all_cloned: Methods = {"cloned": lambda self, error, batch: jnp.mean(error)}


def _pass_through(self: Any, x: Any) -> Any:
    return x + jax.lax.stop_gradient(jnp.clip(x, -1, 1) - x)


def _same(self: Any, x: Any) -> Any:
    return x


def _other(self: Any, members: Any) -> Any:
    return (jnp.mean if self.reduce is jnp.min else jnp.min)(members, 0)


def _least(self: Any, members: Any) -> Any:
    return jnp.min(members, 0)


def _weight_one(setting: str) -> Methods:
    """The setting is 1."""

    def init(self: Any, *args: Any) -> None:
        AgentUpdate.__init__(self, *args)
        self.own = _With(self.own, **{setting: lambda value: 1.0})

    return {"__init__": init}


class _With:
    """Settings, some of them changed."""

    def __init__(self, own: Any, **changes: Callable[[float], float]) -> None:
        self._own, self._changes = own, changes

    def __getattr__(self, name: str) -> Any:
        name = "inv_temp" if name == "temperature" and "inv_temp" in self._changes else name
        value = getattr(self._own, name)
        return self._changes.get(name, lambda same: same)(value)


def _temperature(change: Callable[[float], float]) -> Methods:
    def init(self: Any, *args: Any) -> None:
        AgentUpdate.__init__(self, *args)
        self.own = _With(self.own, inv_temp=change)

    return {"__init__": init}


EDP: dict[str, Methods] = {
    **CLONING,
    "actor-online-critic": {"actor_critic": "critic"},
    "actor-other-aggregation": {"climbed": _other},
    "actor-clip-mask-dropped": {"query": _pass_through},
    "actor-query-unclipped": {"query": _same},
    "valid-in-cloning": {
        "cloned": lambda self, error, batch: jnp.mean(batch["valid"][:, None] * error)
    },
    "valid-in-actor-q": {"risen": lambda self, q, batch: jnp.mean(batch["valid"] * q)},
    "cloning-without-weight": _weight_one("bc_weight"),
    "cloning-sum-over-action": {"cloned": lambda self, error, batch: jnp.mean(jnp.sum(error, -1))},
    "time-unscaled": {"embedding": lambda self, t: time_embedding(t / 10000)},
}


def _live_endpoint(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    end = self.euler(learned["actor_bc_flow"], batch["obs"], batch["z"])
    return jnp.clip(end, -1, 1)


FQL: dict[str, Methods] = {
    **CLONING,
    "valid-ignored-in-cloning": _all_cloned,
    "actor-target-critic": {"actor_critic": "target_critic"},
    "actor-min": {"climbed": _least},
    "actor-clip-mask-dropped": {"query": _pass_through},
    "actor-query-unclipped": {"query": _same},
    "one-step-clipped": {
        "followed": lambda self, mu, end, batch: PEERS["fql"].followed(  # type: ignore[attr-defined]
            self, jnp.clip(mu, -1, 1), end, batch
        )
    },
    "endpoint-unclipped": {
        "endpoint": lambda self, learned, frozen, batch: self.euler(
            frozen["actor_bc_flow"], batch["obs"], batch["z"]
        )
    },
    "endpoint-differentiated": {"endpoint": _live_endpoint},
    "valid-ignored-in-distillation": {
        "followed": lambda self, mu, end, batch: jnp.mean((mu - end) ** 2)
    },
    "valid-ignored-in-actor-q": {"risen": lambda self, q, batch: jnp.mean(q)},
    "distillation-sum-over-action": {
        "followed": lambda self, mu, end, batch: jnp.mean(
            batch["valid"] * jnp.sum((mu - end) ** 2, -1)
        )
    },
    "cloning-without-weight": _weight_one("alpha"),
    "next-q-other-aggregation": {"next_value": _other},
    "next-action-unclipped": {
        "next_action": lambda self, frozen, batch: self.one_step(
            frozen["actor_onestep_flow"], batch["next_obs"], batch["next_noise"]
        )
    },
}


def _noisy_end(self: Any, frozen: Any, batch: Any, x: Any) -> Any:
    return self.moved(frozen, batch, x, self.T - 1)


def _fast_end(self: Any, frozen: Any, batch: Any, x: Any) -> Any:
    t = np.float32((self.T - 1) / self.T)
    return x + self.flow(frozen["actor_fast"], batch["obs"], x, t) / self.T


def _groups(of: Callable[[Any], Any]) -> Methods:
    def received(self: Any, bar: Any) -> Any:
        most = getattr(self.own, "clip_grad", None) or self.own.clip_grad_norm
        return self.clipped(bar, of(self), most)

    return {"received": received}


def _by_value(self: Any, bar: Any) -> Any:
    most = getattr(self.own, "clip_grad", None) or self.own.clip_grad_norm
    return tree(lambda g: jnp.clip(g, -most, most), bar)


CLIPS: dict[str, Methods] = {
    "clip-per-network": _groups(lambda self: [(name,) for name in self.learned]),
    "clip-missing": {"received": lambda self, bar: bar},
    "clip-by-value": {"received": _by_value},
    "clip-all-together": _groups(lambda self: [self.learned]),
    "clip-actor-and-critics-apart": _groups(lambda self: [("actor",), ("critic", "value")]),
}
NEXT: dict[str, Methods] = {
    "next-q-online": {"next_critic": "critic"},
    "next-q-min": {"next_value": _least},
    "next-q-sample-deviation": {
        "next_value": lambda self, q: jnp.mean(q, 0) - self.own.rho * jnp.std(q, 0, ddof=1)
    },
    "next-q-without-deviation": {"next_value": lambda self, q: jnp.mean(q, 0)},
}
QAM: dict[str, Methods] = {
    **CLONING,
    **CLIPS,
    **NEXT,
    "valid-ignored-in-cloning": _all_cloned,
    "adjoint-other-critic": {"guide": "critic"},
    "adjoint-min": {"climbed": _least},
    "valid-in-adjoint-matching": {
        "residual": lambda self, r, batch: jnp.mean(batch["valid"] * jnp.sum(r * r, -1))
    },
    "adjoint-matching-mean": {"residual": lambda self, r, batch: jnp.mean(r * r) / self.T},
    "adjoint-jacobian-earlier": {
        "adjoint_flow": lambda self, frozen, obs, x, i: self.flow(
            frozen[self.base], obs, x, np.float32(i / self.T)
        )
    },
    "adjoint-jacobian-at-next-point": {
        "adjoint_point": lambda self, points, last, i: [*points, last][i + 1]
    },
    "adjoint-through-fast-flow": {
        "adjoint_flow": lambda self, frozen, obs, x, i: self.flow(
            frozen["actor_fast"], obs, x, np.float32((i + 1) / self.T)
        )
    },
    "last-step-by-fast-flow": {"ended": _fast_end},
    "last-step-with-noise": {"ended": _noisy_end},
    "base-at-next-time": {
        "base_velocity": lambda self, frozen, obs, x, i: self.flow(
            frozen[self.base], obs, x, np.float32((i + 1) / self.T)
        )
    },
    "sigma-without-h": {
        "sigma": lambda self, i: (2 * (1 - i / self.T) / (i / self.T + 1 / self.T)) ** 0.5
    },
    "adjoint-of-batch-mean": {"summed": lambda self, q: jnp.mean(q)},
    "base-is-online-slow-flow": {"base": "actor_slow"},
    "slow-average-never-updated": {
        "apply": lambda self, state, bar: _keeping(self, state, bar, "target_actor_slow")
    },
    "adjoint-clip-mask-dropped": {"query": _pass_through},
    "temperature-inverted": _temperature(lambda kappa: 1 / kappa),
    "next-action-by-slow-flow": {"next_flow": "actor_slow"},
}


def _keeping(self: Any, state: Any, bar: Any, name: str) -> Any:
    after = AgentUpdate.apply(self, state, bar)
    return {**after, "params": {**after["params"], name: state["params"][name]}}


def _sampler(before: bool, after: bool) -> Methods:
    return {"clips": lambda self: (before, after)}


def _clipped_gradient(self: Any, frozen: Any, obs: Any, x: Any) -> Any:
    return jax.grad(lambda a: self.summed(self.asked(frozen, obs, a)))(jnp.clip(x, -1, 1))


DIFFUSION: dict[str, Methods] = {
    **CLIPS,
    **NEXT,
    "step-as-fraction": {
        "features": lambda self, k, w: PEERS["dac"].features(self, k / self.T, w)  # type: ignore[attr-defined]
    },
    "features-sin-first": {
        "features": lambda self, k, w: jnp.concatenate(
            [f(2 * jnp.pi * k[:, None].astype(jnp.float32) * w[:, 0]) for f in (jnp.sin, jnp.cos)],
            -1,
        )
    },
    "obs-before-action": {"inputs": lambda self, obs, x, cond: [obs, x, cond]},
    "encoder-activated": {
        "encoded": lambda self, encoder, features: mish(mlp(encoder, features, mish))
    },
    "critic-mish": {"critic_act": property(lambda self: mish)},
    "query-clipped": {"gradient": _clipped_gradient},
    "query-clipped-masked": {
        "asked": lambda self, frozen, obs, x: jnp.mean(
            self.members(frozen[self.guide], obs, jnp.clip(x, -1, 1)), 0
        )
    },
    "actor-other-critic": {"guide": "critic"},
    "gradient-of-batch-mean": {"summed": lambda self, q: jnp.mean(q)},
    "valid-ignored-in-cloning": {
        "weight_cloning": lambda self, batch: jnp.ones_like(batch["valid"])
    },
    "valid-ignored-in-actor": {"weight_own": lambda self, batch: jnp.ones_like(batch["valid"])},
    "cloning-without-weight": _weight_one("alpha"),
    "temperature-sign": _temperature(lambda kappa: -kappa),
    "temperature-inverted": _temperature(lambda kappa: 1 / kappa),
    "next-action-posterior-variance": {
        "variance": lambda self, alpha, hat, last: (1 - alpha) * (1 - last) / (1 - hat)
    },
    "next-action-clipped": {
        "next_action": lambda self, frozen, batch: jnp.clip(
            PEERS["dac"].next_action(self, frozen, batch), -1, 1
        )
    },
    "next-action-clip-before": _sampler(True, False),
    "next-action-clip-after": _sampler(False, True),
    "next-action-no-clip": _sampler(False, False),
}
OWN: dict[str, dict[str, Methods]] = {
    "edp": EDP, "fql": {**NEXT, **FQL}, "qam": QAM, "dac": DIFFUSION, "qsm": DIFFUSION,
    "dqc": {**DQC, **CLONING},
}  # fmt: skip


def _min_of_online(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    return jnp.min(self.q(learned["critic"], batch), 0)


VALUE: dict[str, Methods] = {
    "value-from-mean": {
        "value_target": lambda self, learned, frozen, batch: jnp.mean(
            self.q(frozen["target_critic"], batch), 0
        )
    },
    "value-from-online-critic": {
        "value_target": lambda *args: jax.lax.stop_gradient(_min_of_online(*args))
    },
    "value-gradient-into-critic": {"value_target": _min_of_online},
}
"""Of agents whose value follows the minimum, whatever the options say."""


def broken(agent: str, name: str) -> type[AgentUpdate]:
    """The agent's peer with this mistake in it."""
    actors = {"edp": ("policy",), "fql": ("actor_onestep_flow", "actor_bc_flow")}.get(agent, ())
    orders = {
        "critic-after-value-step": (*actors, "value", "critic"),
        "value-after-target-update": (*actors, "critic", "value"),
        "actor-after-critic-step": ("critic", *actors),
        "losses-in-turn": ("policy", "chunk_critic", "action_critic", "value"),
        "critics-after-value-step": ("policy", "value", "chunk_critic", "action_critic"),
    }
    own = {**OWN[agent], **({} if agent in ("edp", "dqc") else VALUE)}
    if name in own:
        methods = own[name]
    elif name in orders:
        methods = _in_sequence(*orders[name])
    else:
        methods = {k: f for k, f in vars(PLANTED[name]).items() if not k.startswith("__")}
    return type("Wrong", (PEERS[agent],), methods)
