"""The training update once more, in plain JAX: one jitted function, no flax, no optax.

An independent second implementation to compare numbers and speed with. Losses, Adam and the target
average are written from official.md, section 3, gradients come from JAX's autodiff. Needs the
`peers` extra; imports nothing of `qgf_ref` but the parameters' containers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.nets.mlp import MLPParams

LEARNED = ("policy", "critic", "value")
NETWORKS = ("policy", "critic", "target_critic", "value")
State = dict[str, Any]
"""params: {network: layers}, mean and square: {learned network: layers}, count (); `layers` is a
list of (kernel, bias) or (kernel, bias, scale, offset); a network that encodes a step has
(frequencies, the encoder's layers, its own)."""


def initial_state(checkpoint: Checkpoint) -> State:
    """The state before the first update, float32."""
    parts = [part for part in checkpoint.agent.parts if part.name in checkpoint.params]
    params = {part.name: _arrays(checkpoint.part(part.name)) for part in parts}
    learned = [part.name for part in parts if part.target_of is None]

    def zeros() -> Any:
        return jax.tree_util.tree_map(jnp.zeros_like, {n: params[n] for n in learned})

    return {"params": params, "mean": zeros(), "square": zeros(), "count": jnp.int32(0)}


def arrays(state: State, network: str) -> list[Array]:
    """The parameters of one network in the order of `MLPParams.arrays`."""
    return [np.asarray(part) for part in jax.tree_util.tree_leaves(state["params"][network])]


def inputs(batch: Batch) -> dict[str, Array]:
    """A batch as the update takes it, float32."""
    return {name: np.asarray(array, np.float32) for name, array in vars(batch).items()}


class Update:
    """update(state, inputs(batch), x0 (B, D), t (B,)) → (state, losses), not jitted.

    Every piece is a method, so that `jax_training_mistakes` can get one wrong. Raises InputError on
    an activation other than gelu and relu.
    """

    learned: tuple[str, ...] = LEARNED
    averages: Mapping[str, str] = MappingProxyType({"target_critic": "critic"})

    def __init__(self, checkpoint: Checkpoint, hyper: Hyperparameters) -> None:
        functions: dict[str, Any] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}
        name = checkpoint.options.activation
        if name not in functions:
            raise unknown_name("activation of the JAX peer", name, functions)
        self.act = functions[name]
        self.reduce: Any = {"min": jnp.min, "mean": jnp.mean}[checkpoint.options.q_aggregation]
        self.hyper = hyper

    def __call__(self, state: State, batch: Any, x0: Any, t: Any) -> tuple[State, dict[str, Any]]:
        """One update, and its losses."""
        state, _, values = self.advance(state, batch, x0, t)
        return state, values

    def advance(self, state: State, batch: Any, x0: Any, t: Any) -> tuple[State, Any, Any]:
        """One update, its gradients and its losses."""
        bar, values = self.gradients(state["params"], batch, x0, t)
        return self.apply(state, bar), bar, values

    def gradients(self, params: Any, batch: Any, x0: Any, t: Any) -> Any:
        """({learned network: cotangents}, losses)."""
        # the three losses share no differentiated parameter: the gradient of their sum is all three
        learned = {name: params[name] for name in self.learned}
        return jax.grad(self.losses, has_aux=True)(learned, params, batch, x0, t)

    def losses(self, learned: Any, frozen: Any, batch: Any, x0: Any, t: Any) -> Any:
        """(their sum, losses). What is held fixed is read from `frozen`."""
        policy = self.policy_loss(learned, batch, x0, t)
        critic = self.critic_loss(learned, frozen, batch)
        value = self.value_loss(learned, frozen, batch)
        return policy + critic + value, {"policy": policy, "critic": critic, "value": value}

    def policy_loss(self, learned: Any, batch: Any, x0: Any, t: Any) -> Any:
        """Behaviour cloning."""
        x_t = self.point(x0, batch["action"], t[:, None])
        v = mlp(
            learned["policy"], jnp.concatenate([batch["obs"], x_t, time_embedding(t)], -1), self.act
        )
        return jnp.mean((v - self.velocity_target(x0, batch["action"])) ** 2)

    def point(self, x0: Any, x1: Any, t: Any) -> Any:
        """x_t."""
        return (1 - t) * x0 + t * x1

    def velocity_target(self, x0: Any, x1: Any) -> Any:
        """What v is regressed on."""
        return x1 - x0

    def critic_loss(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """TD error of every member."""
        q, y = self.q(learned["critic"], batch), self.target(learned, frozen, batch)
        return jnp.mean(batch["valid"] * (q - y) ** 2)

    def target(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """y."""
        bootstrap = self.bootstrap(learned, frozen, batch)
        return batch["rewards"] + self.discount() * batch["masks"] * bootstrap

    def discount(self) -> float:
        """γᴴ."""
        return self.hyper.discount**self.hyper.horizon

    def bootstrap(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """V(s')."""
        return self.v(frozen["value"], batch["next_obs"])

    def value_loss(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """Expectile regression on the target critic."""
        advantage = self.value_target(learned, frozen, batch)
        advantage = advantage - self.v(learned["value"], batch["obs"])
        weight = jnp.where(advantage > 0, self.hyper.expectile, 1 - self.hyper.expectile)
        return jnp.mean(batch["valid"] * weight * advantage**2)

    def value_target(self, learned: Any, frozen: Any, batch: Any) -> Any:
        """What V is regressed on."""
        return self.reduce(self.q(frozen["target_critic"], batch), axis=0)

    def q(self, critic: Any, batch: Any, obs: str = "obs") -> Any:
        """Members at the batch's actions, (E, B)."""
        pair = jnp.concatenate([batch[obs], batch["action"]], -1)
        return jax.vmap(lambda member: mlp(member, pair, self.act)[..., 0])(critic)

    def v(self, value: Any, obs: Any) -> Any:
        """(B,)."""
        return mlp(value, obs, self.act)[..., 0]

    def apply(self, state: State, bar: Any) -> State:
        """Adam on what is learned, the moving average on the target."""
        before, count = state["params"], state["count"] + 1
        tree, learned = jax.tree_util.tree_map, {name: before[name] for name in self.learned}
        mean = tree(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], bar)
        square = tree(lambda s, g: 0.999 * s + 0.001 * g * g, state["square"], bar)
        scales = self.corrections(count.astype(jnp.float32))
        moved = tree(
            lambda p, m, s: self.step(p, m * scales[0], s * scales[1]), learned, mean, square
        )
        for name, of in self.averages.items():
            moved[name] = tree(self.average, before[name], before[of], moved[of])
        return {"params": moved, "mean": mean, "square": square, "count": count}

    def corrections(self, n: Any) -> tuple[Any, Any]:
        """Factors of the two moments at update n = 1, 2, …"""
        return 1 / (1 - 0.9**n), 1 / (1 - 0.999**n)

    def step(self, p: Any, m: Any, s: Any) -> Any:
        """The new parameter from the corrected moments."""
        return p - self.hyper.learning_rate * m / (jnp.sqrt(s) + 1e-8)

    def average(self, target: Any, before: Any, after: Any) -> Any:
        """The new target from the critic before and after its step."""
        return self.hyper.tau * before + (1 - self.hyper.tau) * target


def jitted_update(checkpoint: Checkpoint, hyper: Hyperparameters) -> Any:
    """`Update`, jitted. The buffers of the state that goes in are given up (donated)."""
    return jax.jit(Update(checkpoint, hyper), donate_argnums=0)


def _arrays(params: MLPParams) -> Any:
    if params.encoder is None:
        return _layers(params)
    frequencies = jnp.array(params.encoder.table, jnp.float32)
    return frequencies, _layers(params.encoder), _layers(params)


def _layers(params: MLPParams) -> list[tuple[Any, ...]]:
    # copies, because donated buffers must not be the checkpoint's own
    return [
        tuple(jnp.array(part, jnp.float32) for part in layer.parts() if part is not None)
        for layer in params.layers
    ]


def mlp(layers: Any, x: Any, act: Any) -> Any:
    """MLP(x) of one network or member."""
    for i, (kernel, bias, *norm) in enumerate(layers):
        x = x @ kernel + bias
        if norm:
            mean = jnp.mean(x, -1, keepdims=True)
            var = jnp.maximum(jnp.mean(x * x, -1, keepdims=True) - mean * mean, 0)
            x = (x - mean) * (jax.lax.rsqrt(var + 1e-6) * norm[0]) + norm[1]
        if i < len(layers) - 1:
            x = act(x)
    return x


def time_embedding(t: Any) -> Any:
    """(B, 16)."""
    freq = jnp.exp(jnp.float32(-math.log(10000)) * jnp.arange(8, dtype=jnp.float32) / 8)
    angle = (t * jnp.float32(10000))[:, None] * freq
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
