"""The training update once more, in plain JAX: one jitted function, no flax, no optax.

An independent second implementation to compare numbers and speed with. Losses, Adam and the target
average are written from official.md, section 3, gradients come from JAX's autodiff. Needs the
`peers` extra; imports nothing of `qgf_ref` but the parameters' containers.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.losses.update import Batch, Hyperparameters
from qgf_ref.nets.mlp import MLPParams

LEARNED = ("policy", "critic", "value")
NETWORKS = ("policy", "critic", "target_critic", "value")
State = dict[str, Any]
"""params: {network: layers}, mean and square: {learned network: layers}, count (); `layers` is a
list of (kernel, bias) or (kernel, bias, scale, offset)."""


def initial_state(checkpoint: Checkpoint) -> State:
    """The state before the first update, float32."""
    params = {name: _layers(getattr(checkpoint, name)) for name in NETWORKS}

    def zeros() -> Any:
        return jax.tree_util.tree_map(jnp.zeros_like, {n: params[n] for n in LEARNED})

    return {"params": params, "mean": zeros(), "square": zeros(), "count": jnp.int32(0)}


def arrays(state: State, network: str) -> list[Array]:
    """The parameters of one network in the order of `MLPParams.arrays`."""
    return [np.asarray(part) for layer in state["params"][network] for part in layer]


def inputs(batch: Batch) -> dict[str, Array]:
    """A batch as the update takes it, float32."""
    return {name: np.asarray(array, np.float32) for name, array in vars(batch).items()}


def jitted_update(checkpoint: Checkpoint, hyper: Hyperparameters) -> Any:
    """update(state, inputs(batch), x0 (B, D), t (B,)) → (state, losses), jitted.

    The buffers of the state that goes in are given up (donated). Raises InputError on an activation
    other than gelu and relu.
    """
    functions: dict[str, Any] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}
    name = checkpoint.options.activation
    if name not in functions:
        raise unknown_name("activation of the JAX peer", name, functions)
    act = functions[name]
    reduce: Any = {"min": jnp.min, "mean": jnp.mean}[checkpoint.options.q_aggregation]

    def losses(learned: Any, frozen: Any, batch: Any, x0: Any, t: Any) -> Any:
        obs, action, valid = batch["obs"], batch["action"], batch["valid"]
        x_t = (1 - t[:, None]) * x0 + t[:, None] * action
        v = _mlp(learned["policy"], jnp.concatenate([obs, x_t, _embedding(t)], -1), act)
        policy = jnp.mean((v - (action - x0)) ** 2)

        bootstrap = _mlp(frozen["value"], batch["next_obs"], act)[..., 0]
        y = batch["rewards"] + hyper.discount**hyper.horizon * batch["masks"] * bootstrap
        pair = jnp.concatenate([obs, action], -1)
        critic = jnp.mean(valid * (_ensemble(learned["critic"], pair, act) - y) ** 2)

        advantage = reduce(_ensemble(frozen["target_critic"], pair, act), axis=0)
        advantage = advantage - _mlp(learned["value"], obs, act)[..., 0]
        weight = jnp.where(advantage > 0, hyper.expectile, 1 - hyper.expectile)
        value = jnp.mean(valid * weight * advantage**2)
        return policy + critic + value, {"policy": policy, "critic": critic, "value": value}

    def update(state: State, batch: Any, x0: Any, t: Any) -> tuple[State, dict[str, Any]]:
        # the three losses share no differentiated parameter: the gradient of their sum is all three
        params = state["params"]
        learned = {name: params[name] for name in LEARNED}
        bar, values = jax.grad(losses, has_aux=True)(learned, params, batch, x0, t)

        count = state["count"] + 1
        n = count.astype(jnp.float32)
        mean_scale, square_scale = 1 / (1 - 0.9**n), 1 / (1 - 0.999**n)
        tree = jax.tree_util.tree_map
        mean = tree(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], bar)
        square = tree(lambda s, g: 0.999 * s + 0.001 * g * g, state["square"], bar)

        def step(p: Any, m: Any, s: Any) -> Any:
            rate = hyper.learning_rate
            return p - rate * (m * mean_scale) / (jnp.sqrt(s * square_scale) + 1e-8)

        moved = tree(step, learned, mean, square)
        moved["target_critic"] = tree(
            lambda target, online: hyper.tau * online + (1 - hyper.tau) * target,
            params["target_critic"],
            params["critic"],
        )
        return {"params": moved, "mean": mean, "square": square, "count": count}, values

    return jax.jit(update, donate_argnums=0)


def _layers(params: MLPParams) -> list[tuple[Any, ...]]:
    # copies, because donated buffers must not be the checkpoint's own
    return [
        tuple(jnp.array(part, jnp.float32) for part in layer.parts() if part is not None)
        for layer in params.layers
    ]


def _mlp(layers: Any, x: Any, act: Any) -> Any:
    for i, (kernel, bias, *norm) in enumerate(layers):
        x = x @ kernel + bias
        if norm:
            mean = jnp.mean(x, -1, keepdims=True)
            var = jnp.maximum(jnp.mean(x * x, -1, keepdims=True) - mean * mean, 0)
            x = (x - mean) * (jax.lax.rsqrt(var + 1e-6) * norm[0]) + norm[1]
        if i < len(layers) - 1:
            x = act(x)
    return x


def _ensemble(layers: Any, x: Any, act: Any) -> Any:
    return jax.vmap(lambda member: _mlp(member, x, act)[..., 0])(layers)


def _embedding(t: Any) -> Any:
    freq = jnp.exp(jnp.float32(-math.log(10000)) * jnp.arange(8, dtype=jnp.float32) / 8)
    angle = (t * jnp.float32(10000))[:, None] * freq
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
