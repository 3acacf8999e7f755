"""Wrong training steps, planted in the JAX peer: what a porter could have written.

Each replaces methods of `jax_update.Update` and leaves the gradient to JAX's autodiff; nothing is
shared with the bank of `qgf_ref.crosscheck.update.mistakes` but the names. `HELD_OUT` ones are in
no bank; with each goes the first quantity that it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_update import LEARNED, NETWORKS, State, Update, initial_state, inputs
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.losses.batch import Batch, Hyperparameters

tree = jax.tree_util.tree_map


def training_step(
    checkpoint: Checkpoint, hyper: Hyperparameters, updates: int, peer: type[Update] = Update
) -> Callable[[Batch, Array, Array], dict[str, Any]]:
    """The peer, as `qgf_ref.crosscheck.update.check.check_losses` calls it."""
    update = peer(checkpoint, hyper)

    def named(network: str, layers: Any) -> dict[str, Array]:
        names = [name for name, _ in getattr(checkpoint, network).named()]
        return dict(zip(names, (np.asarray(p) for x in layers for p in x), strict=True))

    def step(batch: Batch, x0: Array, t: Array) -> dict[str, Any]:
        state, data = initial_state(checkpoint), inputs(batch)
        made = [update.gradients(state["params"], data, x0, t)] if not updates else []
        for n in range(updates):
            state, bar, losses = update.advance(state, data, x0[n], t[n])
            made.append((bar, losses))
        bar, losses = made[0]
        found = {**losses, **{f"grad/{name}": named(name, bar[name]) for name in LEARNED}}
        if updates:
            found |= {f"params/{n}": named(n, state["params"][n]) for n in NETWORKS}
        return found

    return step


def wrong(base: type[Update] = Update, **methods: Any) -> type[Update]:
    """The peer with methods replaced."""
    return type("Wrong", (base,), methods)


def scaled(name: str, factor: Callable[[Update, Any], Any]) -> type[Update]:
    """A loss times a factor, which may depend on the batch (its last argument but x0 and t)."""
    right = getattr(Update, name)

    def loss(self: Update, *args: Any) -> Any:
        batch = args[1] if name == "policy_loss" else args[2]
        return right(self, *args) * factor(self, batch)

    methods: dict[str, Any] = {name: loss}
    return wrong(**methods)


def with_batch(name: str, **change: Callable[[Any], Any]) -> type[Update]:
    """A loss that sees another batch."""
    right = getattr(Update, name)

    def loss(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
        other = {**batch, **{part: f(batch) for part, f in change.items()}}
        return right(self, learned, frozen, other)

    methods: dict[str, Any] = {name: loss}
    return wrong(**methods)


def _per_valid_row(self: Update, batch: Any) -> Any:
    return len(batch["valid"]) / batch["valid"].sum()


def _policy_on_valid_rows(normalised: bool) -> type[Update]:
    def policy_loss(self: Update, learned: Any, batch: Any, x0: Any, t: Any) -> Any:
        rows = jax.vmap(
            lambda *row: Update.policy_loss(self, learned, *tree(lambda a: a[None], row))
        )(batch, x0, t)
        kept = rows * batch["valid"]
        return kept.sum() / batch["valid"].sum() if normalised else kept.mean()

    return wrong(policy_loss=policy_loss)


def _next_q(network: str, members: bool = False) -> type[Update]:
    def bootstrap(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
        q = self.q(frozen[network], batch, "next_obs")
        return q if members else self.reduce(q, axis=0)

    return wrong(bootstrap=bootstrap)


def _smallest_member(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
    q = jnp.min(self.q(learned["critic"], batch), axis=0)
    return jnp.mean(batch["valid"] * (q - self.target(learned, frozen, batch)) ** 2)


def _half_square(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
    error = self.value_target(learned, frozen, batch) - self.v(learned["value"], batch["obs"])
    return jnp.mean(batch["valid"] * error**2)


def _swapped(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
    error = self.value_target(learned, frozen, batch) - self.v(learned["value"], batch["obs"])
    tau = self.hyper.expectile
    return jnp.mean(batch["valid"] * jnp.where(error < 0, tau, 1 - tau) * error**2)


def _online(held_fixed: bool) -> type[Update]:
    def value_target(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
        q = self.reduce(self.q(learned["critic"], batch), axis=0)
        return jax.lax.stop_gradient(q) if held_fixed else q

    return wrong(value_target=value_target)


def _other_reduction(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
    other = jnp.mean if self.reduce is jnp.min else jnp.min
    return other(self.q(frozen["target_critic"], batch), axis=0)


def in_sequence(*order: str) -> type[Update]:
    """Each stage makes a whole right update of what it sees and keeps its own network of it."""

    def advance(self: Update, state: State, batch: Any, x0: Any, t: Any) -> Any:
        bars: dict[str, Any] = {}
        params, losses = dict(state["params"]), dict(bars)
        moments = {kind: dict(state[kind]) for kind in ("mean", "square")}
        for name in order:
            if name == "target_critic":
                params[name] = tree(self.average, params[name], params["critic"], params["critic"])
                continue
            bar, values = self.gradients(params, batch, x0, t)
            # the moments of the start: each network has been stepped once when all are through
            moved = self.apply({**state, "params": params}, bar)
            params[name] = moved["params"][name]
            bars[name], losses[name] = bar[name], values[name]
            for kind in moments:
                moments[kind][name] = moved[kind][name]
        return {"params": params, **moments, "count": state["count"] + 1}, bars, losses

    return wrong(advance=advance)


def stepping(step: Callable[[Any, Any, Any, float], Any]) -> type[Update]:
    """Another step from parameter, corrected moments and learning rate."""
    return wrong(step=lambda self, p, m, s: step(p, m, s, self.hyper.learning_rate))


def averaging(average: Callable[[Any, Any, Any, float], Any]) -> type[Update]:
    """Another target from target, critic before, critic after, and tau."""
    return wrong(average=lambda self, t, b, a: average(t, b, a, self.hyper.tau))


def changing(bar: Callable[[Any, Any], Any]) -> type[Update]:
    """Other gradients of each network, (params, bar) → bar, on their way to Adam."""

    def apply(self: Update, state: State, found: Any) -> State:
        changed = {name: bar(state["params"][name], found[name]) for name in found}
        return Update.apply(self, state, changed)

    return wrong(apply=apply)


def _clipped(params: Any, bar: Any) -> Any:
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree_util.tree_leaves(bar)))
    return tree(lambda g: jnp.where(norm > 1, g / norm, g), bar)


def adam(p: Any, m: Any, s: Any, rate: float) -> Any:
    """The right step."""
    return p - rate * m / (jnp.sqrt(s) + 1e-8)


PLANTED: dict[str, type[Update]] = {
    "velocity-sign": wrong(velocity_target=lambda self, x0, x1: x0 - x1),
    "velocity-target-is-action": wrong(velocity_target=lambda self, x0, x1: x1),
    "interpolation-reversed": wrong(point=lambda self, x0, x1, t: t * x0 + (1 - t) * x1),
    "policy-sum-over-action": scaled("policy_loss", lambda s, b: b["action"].shape[1]),
    "policy-half-loss": scaled("policy_loss", lambda s, b: 0.5),
    "valid-in-policy-loss": _policy_on_valid_rows(normalised=False),
    "policy-mean-over-valid-rows": _policy_on_valid_rows(normalised=True),
    "valid-ignored-in-critic-loss": with_batch(
        "critic_loss", valid=lambda b: jnp.ones_like(b["valid"])
    ),
    "critic-mean-over-valid-rows": scaled("critic_loss", _per_valid_row),
    "critic-sum-over-ensemble": wrong(
        critic_loss=lambda self, learned, frozen, b: jnp.mean(
            jnp.sum(
                b["valid"] * (self.q(learned["critic"], b) - self.target(learned, frozen, b)) ** 2,
                axis=0,
            )
        )
    ),
    "critic-half-loss": scaled("critic_loss", lambda s, b: 0.5),
    "critic-min-over-ensemble": wrong(critic_loss=_smallest_member),
    "mask-ignored": with_batch("critic_loss", masks=lambda b: jnp.ones_like(b["masks"])),
    "mask-inverted": with_batch("critic_loss", masks=lambda b: 1 - b["masks"]),
    "discount-without-horizon": wrong(discount=lambda self: self.hyper.discount),
    "bootstrap-target-q": _next_q("target_critic"),
    "bootstrap-online-q": _next_q("critic"),
    "bootstrap-target-q-by-member": _next_q("target_critic", members=True),
    "bootstrap-current-state": with_batch("critic_loss", next_obs=lambda b: b["obs"]),
    "critic-gradient-into-value": wrong(
        bootstrap=lambda self, learned, frozen, b: self.v(learned["value"], b["next_obs"])
    ),
    "expectile-swapped": wrong(value_loss=_swapped),
    "expectile-ignored": wrong(value_loss=_half_square),
    "value-from-online-critic": _online(held_fixed=True),
    "value-gradient-into-critic": _online(held_fixed=False),
    "value-other-aggregation": wrong(value_target=_other_reduction),
    "valid-ignored-in-value-loss": with_batch(
        "value_loss", valid=lambda b: jnp.ones_like(b["valid"])
    ),
    "value-mean-over-valid-rows": scaled("value_loss", _per_valid_row),
    "value-half-loss": scaled("value_loss", lambda s, b: 0.5),
    "critic-after-value-step": in_sequence("policy", "value", "critic", "target_critic"),
    "value-after-target-update": in_sequence("policy", "critic", "target_critic", "value"),
    "adam-epsilon-inside-root": stepping(lambda p, m, s, rate: p - rate * m / jnp.sqrt(s + 1e-8)),
    "adam-epsilon-1e-7": stepping(lambda p, m, s, rate: p - rate * m / (jnp.sqrt(s) + 1e-7)),
    "adam-without-bias-correction": wrong(corrections=lambda self, n: (1.0, 1.0)),
    "adam-l2": changing(lambda params, bar: tree(lambda p, g: g + 0.01 * p, params, bar)),
    "adamw-weight-decay": stepping(
        lambda p, m, s, rate: p - rate * (m / (jnp.sqrt(s) + 1e-8) + 0.01 * p)
    ),
    "gradient-clipped": changing(_clipped),
    "learning-rate-1e-3": stepping(lambda p, m, s, rate: adam(p, m, s, 1e-3)),
    "target-update-after-critic-step": averaging(lambda t, b, a, tau: tau * a + (1 - tau) * t),
    "tau-reversed": averaging(lambda t, b, a, tau: (1 - tau) * b + tau * t),
    "target-hard-copy": averaging(lambda t, b, a, tau: a),
    "target-never-updated": averaging(lambda t, b, a, tau: t),
}
"""By the name that the bank gives them."""


def _huber(self: Update, learned: Any, frozen: Any, batch: Any) -> Any:
    error = jnp.abs(self.q(learned["critic"], batch) - self.target(learned, frozen, batch))
    return jnp.mean(batch["valid"] * jnp.where(error < 1, error**2, 2 * error - 1))


HELD_OUT: dict[str, tuple[type[Update], str]] = {
    "Huber's loss of the critic": (wrong(critic_loss=_huber), "critic"),
    "a path of squared times": (
        wrong(point=lambda self, x0, x1, t: (1 - t * t) * x0 + t * t * x1), "policy"
    ),
    "rewards clipped to [−1, 1]": (
        with_batch("critic_loss", rewards=lambda b: jnp.clip(b["rewards"], -1, 1)), "critic"
    ),
    "expectile of the absolute value": (
        wrong(value_loss=lambda self, learned, frozen, b: jnp.mean(b["valid"] * jnp.abs(
            self.value_target(learned, frozen, b) - self.v(learned["value"], b["obs"])))), "value"
    ),
    "Adam with β₂ = 0.99 in the correction": (
        wrong(corrections=lambda self, n: (1 / (1 - 0.9**n), 1 / (1 - 0.99**n))), "params"
    ),
}  # fmt: skip
"""In no bank, with the first quantity that they change."""
