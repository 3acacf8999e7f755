"""Policy and critic in flax, as a porter writes them: the networks of `jax_sampler`.

Modules and parameter tree are the official code's (official.md, section 1): MLP, ActorFlowField
(MLP_0, Dense_0) and Value (an ensemble by `nn.vmap`). `NetworkPort` is made of small methods so
that a mistake can replace one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qgf_ref.nets.mlp import LayerParams, MLPParams

ACTIVATIONS: dict[str, Any] = {
    "gelu": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "elu": nn.elu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
}
REDUCTIONS: dict[str, Any] = {"min": jnp.min, "mean": jnp.mean}
Tree = dict[str, Any]


class Layer(NamedTuple):
    """A hidden layer: in the "policy" or the "critic", and whether a LayerNorm follows it."""

    network: str
    position: int
    norm: bool
    last: bool


class Shape(NamedTuple):
    """An MLP without its parameters: the widths of its layers, output included, and the norms."""

    widths: tuple[int, ...]
    norms: tuple[bool, ...]

    @classmethod
    def of(cls, params: MLPParams) -> Shape:
        """The shape of these parameters."""
        layers = params.layers
        widths = tuple(int(layer.kernel.shape[-1]) for layer in layers)
        return cls(widths, tuple(layer.scale is not None for layer in layers))


class MLP(nn.Module):
    """Dense → LayerNorm → activation for each width; the last is bare unless `activate_final`."""

    port: Any
    network: str
    widths: tuple[int, ...]
    norms: tuple[bool, ...]
    activate_final: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """x (B, I) → (B, F)."""
        hidden = len(self.widths) - (not self.activate_final)
        for i, width in enumerate(self.widths):
            x = self.port.dense(width, f"Dense_{i}")(x)
            if i < hidden:
                layer = Layer(self.network, i, self.norms[i], i == hidden - 1)
                x = self.port.hidden(x, layer)
        return x


class ActorFlowField(nn.Module):
    """The policy: a trunk that ends in an activation, and one Dense."""

    port: Any
    shape: Shape

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """x (B, I) → (B, D)."""
        *hidden, out = self.shape.widths
        trunk = MLP(self.port, "policy", tuple(hidden), self.shape.norms, True, name="MLP_0")
        return self.port.dense(out, "Dense_0")(trunk(x))


class Value(nn.Module):
    """The critic: an ensemble of MLPs with one output each."""

    port: Any
    shape: Shape
    members: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """x (B, I) → (E, B)."""
        ensemble = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.members,
        )
        net = ensemble(self.port, "critic", self.shape.widths, self.shape.norms, name="value_net")
        return jnp.squeeze(net(x), axis=-1)


@dataclass(frozen=True)
class NetworkPort:
    """Both networks without their parameters, T Euler steps and H actions in a chunk.

    `params` is there only while a function is traced; without it a port is hashable.
    """

    nonlinearity: str
    aggregation: str
    estimator: str
    T: int
    H: int
    actor: Shape
    critic: Shape
    E: int
    params: Any = field(default=None, compare=False)

    def loaded(self, network: str, hidden: bool, layer: LayerParams) -> LayerParams:
        """One layer's arrays on their way into `network` (policy, critic or target_critic)."""
        return layer

    def policy_tree(self, params: MLPParams) -> Tree:
        """The policy's parameters as flax has them."""
        layers = self._layers("policy", params)
        return {"Dense_0": layers.pop(f"Dense_{len(params.layers) - 1}"), "MLP_0": layers}

    def critic_tree(self, network: str, params: MLPParams) -> Tree:
        """A critic's parameters as flax has them."""
        return {"value_net": self._layers(network, params)}

    def _layers(self, network: str, params: MLPParams) -> Tree:
        tree: Tree = {}
        for i, layer in enumerate(params.layers):
            part = self.loaded(network, i < len(params.layers) - 1, layer)
            tree[f"Dense_{i}"] = {"kernel": _float32(part.kernel), "bias": _float32(part.bias)}
            if part.scale is not None and part.offset is not None:
                norm = {"scale": _float32(part.scale), "bias": _float32(part.offset)}
                tree[f"LayerNorm_{i}"] = norm
        return tree

    def activation(self, x: Any) -> Any:
        """Of both networks."""
        return ACTIVATIONS[self.nonlinearity](x)

    def dense(self, width: int, name: str) -> Any:
        """The module of a linear layer."""
        return nn.Dense(width, name=name)

    def layer_norm(self, name: str) -> Any:
        """The module of a LayerNorm."""
        return nn.LayerNorm(name=name)

    def normalised(self, x: Any, layer: Layer) -> Any:
        """x behind its LayerNorm, if it has one."""
        return self.layer_norm(f"LayerNorm_{layer.position}")(x) if layer.norm else x

    def hidden(self, x: Any, layer: Layer) -> Any:
        """What follows a hidden Dense."""
        return self.activation(self.normalised(x, layer))

    def times(self, k: Any) -> Any:
        """Time of the steps k, a NumPy array: k/T as XLA divides by a constant, k·fl(1/T)."""
        return k * np.float32(1 / self.T)

    def embedding_times(self, k: Any) -> Any:
        """What of the steps k is embedded."""
        return self.times(k)

    def frequencies(self) -> Any:
        """(8,)."""
        return jnp.exp(-math.log(10000) * jnp.arange(8, dtype=jnp.float32) / 8)

    def angles(self, t: Any) -> Any:
        """t (…, 1) → (…, 8)."""
        return (t * 10000) * self.frequencies()

    def features(self, cos: Any, sin: Any) -> Any:
        """(…, 8), (…, 8) → (…, 16)."""
        return jnp.concatenate([cos, sin], axis=-1)

    def embeddings(self, k: Any) -> Any:
        """Of the steps k, (len(k), 16)."""
        angles = self.angles(jnp.asarray(self.embedding_times(k), jnp.float32)[:, None])
        return self.features(jnp.cos(angles), jnp.sin(angles))

    def at(self, table: Any, k: Any) -> Any:
        """`table` (a function of steps) of one step k = 0 … T.

        Made operation by operation, so that no compiler reorders the products: the angles reach
        10⁴ rad, and the last bit of t alone moves v by up to 1e-3 (3×32 networks, T = 6).
        """
        with jax.ensure_compile_time_eval():
            rows = jnp.asarray(table(np.arange(self.T + 1, dtype=np.float32)), jnp.float32)
        return rows[k]

    def policy_inputs(self, obs: Any, a: Any, emb: Any) -> list[Any]:
        """In the order in which they are concatenated."""
        return [obs, a, emb]

    def velocity(self, obs: Any, a: Any, k: Any) -> Any:
        """v(s, a, k/T), (B, D)."""
        emb = jnp.broadcast_to(self.at(self.embeddings, k), (len(a), 16))
        x = jnp.concatenate(self.policy_inputs(obs, a, emb), axis=-1)
        return ActorFlowField(self, self.actor).apply({"params": self.params["policy"]}, x)

    def critic_inputs(self, obs: Any, a: Any) -> list[Any]:
        """In the order in which they are concatenated."""
        return [obs, a]

    def members(self, obs: Any, a: Any, critic: str) -> Any:
        """Q of every member of "critic" or "target_critic", (E, B)."""
        x = jnp.concatenate(self.critic_inputs(obs, a), axis=-1)
        return Value(self, self.critic, self.E).apply({"params": self.params[critic]}, x)

    def values(self, obs: Any, a: Any, critic: str) -> Any:
        """`members` where nothing is differentiated."""
        return self.members(obs, a, critic)

    def aggregate(self, q: Any) -> Any:
        """(E, B) → (B,)."""
        return REDUCTIONS[self.aggregation](q, axis=0)


def _float32(x: Any) -> Any:
    return jnp.asarray(x, jnp.float32)
