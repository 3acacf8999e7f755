"""Mistakes in the JAX peer's networks and in its time embedding, as methods that replace a port's.

name → {attribute of `Port`: what takes its place}. Those of the networks act in the policy and in
the critic alike, unless their name says one of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_networks import Layer
from benchmarks.peers.jax_sampler import Port
from qgf_ref.nets.mlp import LayerParams

Override = dict[str, Any]


class UnbiasedLayerNorm(nn.Module):
    """The variance is divided by F − 1."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """x (…, F) → (…, F)."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        rstd = jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + 1e-6)
        return (x - jnp.mean(x, axis=-1, keepdims=True)) * rstd * scale + bias


def _affine(layer: LayerParams, scale: Any, offset: Any) -> LayerParams:
    if layer.scale is None or layer.offset is None:
        return layer
    return replace(layer, scale=scale(layer.scale), offset=offset(layer.offset))


def _member_0(x: Any) -> Any:
    return np.broadcast_to(x[:1], x.shape)


def _norms_of_member_0(self: Port, network: str, hidden: bool, layer: LayerParams) -> LayerParams:
    return layer if network == "policy" else _affine(layer, _member_0, _member_0)


def _forward_norms_of_member_0(self: Port, obs: Any, a: Any, critic: str) -> Any:
    if len(a) < 2:
        return self.members(obs, a, critic)
    layers = {
        name: jax.tree.map(lambda p: jnp.broadcast_to(p[:1], p.shape), part)
        if name.startswith("LayerNorm")
        else part
        for name, part in self.params[critic]["value_net"].items()
    }
    return replace(self, params={critic: {"value_net": layers}}).members(obs, a, critic)


def _policy_norm_last(self: Port, x: Any, layer: Layer) -> Any:
    if layer.network == "policy" and layer.last:
        x = nn.LayerNorm(use_scale=False, use_bias=False, name="extra")(x)
    return Port.hidden(self, x, layer)


def _critic_norm_last_missing(self: Port, x: Any, layer: Layer) -> Any:
    missing = layer.network == "critic" and layer.last
    return Port.hidden(self, x, layer._replace(norm=layer.norm and not missing))


def _policy_activation_last_missing(self: Port, x: Any, layer: Layer) -> Any:
    missing = layer.network == "policy" and layer.last
    return self.normalised(x, layer) if missing else Port.hidden(self, x, layer)


def _transposed(self: Port, network: str, hidden: bool, layer: LayerParams) -> LayerParams:
    rows, columns = layer.kernel.shape[-2:]
    if not hidden or rows != columns:
        return layer
    return replace(layer, kernel=layer.kernel.swapaxes(-1, -2))


def _reshaped(self: Port, network: str, hidden: bool, layer: LayerParams) -> LayerParams:
    if network == "policy":
        return layer
    E, I, F = layer.kernel.shape
    return replace(layer, kernel=layer.kernel.reshape(I, E, F).transpose(1, 0, 2))


def _rounded_dot(bits: int) -> Any:
    """x @ kernel and its vjp, every operand rounded to so many explicit mantissa bits."""

    def rounded(x: Any) -> Any:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)

    @jax.custom_vjp
    def dot(x: Any, kernel: Any) -> Any:
        return rounded(x) @ rounded(kernel)

    def forward(x: Any, kernel: Any) -> Any:
        return dot(x, kernel), (x, kernel)

    def backward(saved: Any, y_bar: Any) -> Any:
        x, kernel = saved
        return rounded(y_bar) @ rounded(kernel).T, rounded(x).T @ rounded(y_bar)

    dot.defvjp(forward, backward)
    return lambda x, kernel, dims, precision=None, preferred_element_type=None: dot(x, kernel)


def _dense(bits: int) -> Any:
    dot = _rounded_dot(bits)
    return lambda self, width, name: nn.Dense(width, name=name, dot_general=dot)


def _gelu(cubic: float) -> Any:
    root = math.sqrt(2 / math.pi)
    return lambda self, x: 0.5 * x * (1 + jnp.tanh(root * (x + cubic * x**3)))


def _float64_embedding(self: Port, k: Any) -> Any:
    omega = 10000 * np.exp(-math.log(10000) * np.arange(8) / 8)
    angles = (k.astype(np.float64) / self.T)[:, None] * omega
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def _interleaved(self: Port, cos: Any, sin: Any) -> Any:
    return jnp.stack([cos, sin], axis=-1).reshape(len(cos), 16)


def _frequencies(period: float, denominator: int) -> Any:
    step = -math.log(period)
    return lambda self: jnp.exp(step * jnp.arange(8, dtype=jnp.float32) / denominator)


NETWORK: dict[str, Override] = {
    "gelu-erf": {"activation": lambda self, x: nn.gelu(x, approximate=False)},
    "gelu-quick": {"activation": lambda self, x: x * nn.sigmoid(1.702 * x)},
    "activation-relu": {"activation": lambda self, x: nn.relu(x)},
    "activation-silu": {"activation": lambda self, x: nn.silu(x)},
    "activation-gelu": {"activation": lambda self, x: nn.gelu(x)},
    "layer-norm-eps-1e-5": {"layer_norm": lambda self, name: nn.LayerNorm(1e-5, name=name)},
    "layer-norm-eps-1e-3": {"layer_norm": lambda self, name: nn.LayerNorm(1e-3, name=name)},
    "layer-norm-unbiased": {"layer_norm": lambda self, name: UnbiasedLayerNorm(name=name)},
    "layer-norm-affine-missing": {
        "loaded": lambda self, network, hidden, layer: _affine(layer, np.ones_like, np.zeros_like)
    },
    "layer-norm-offset-missing": {
        "loaded": lambda self, network, hidden, layer: _affine(layer, np.asarray, np.zeros_like)
    },
    "layer-norm-member-0": {"loaded": _norms_of_member_0},
    "layer-norm-member-0-forward": {"values": _forward_norms_of_member_0},
    "policy-norm-last-hidden": {"hidden": _policy_norm_last},
    "critic-norm-last-hidden-missing": {"hidden": _critic_norm_last_missing},
    "policy-activation-last-hidden-missing": {"hidden": _policy_activation_last_missing},
    "activation-before-norm": {
        "hidden": lambda self, x, layer: self.normalised(self.activation(x), layer)
    },
    "biases-missing": {
        "loaded": lambda self, network, hidden, layer: replace(layer, bias=0 * layer.bias)
    },
    "kernels-transposed": {"loaded": _transposed},
    "critic-input-action-first": {"critic_inputs": lambda self, obs, a: [a, obs]},
    "policy-input-action-first": {"policy_inputs": lambda self, obs, a, emb: [a, obs, emb]},
    "policy-input-time-first": {"policy_inputs": lambda self, obs, a, emb: [emb, obs, a]},
    "ensemble-axis-reshaped": {"loaded": _reshaped},
    "policy-output-tanh": {
        "velocity": lambda self, obs, a, k: jnp.tanh(Port.velocity(self, obs, a, k))
    },
    "matmul-tf32": {"dense": _dense(bits=10)},
    "matmul-bf16": {"dense": _dense(bits=7)},
}

TIME: dict[str, Override] = {
    "time-sin-first": {"features": lambda self, cos, sin: jnp.concatenate([sin, cos], axis=-1)},
    "time-interleaved": {"features": _interleaved},
    "time-unscaled": {"angles": lambda self, t: t * self.frequencies()},
    "time-scale-1000": {"angles": lambda self, t: (t * 1000) * self.frequencies()},
    "time-half-minus-1": {"frequencies": _frequencies(10000, 7)},
    "time-max-period-1000": {"frequencies": _frequencies(1000, 8)},
    "time-index": {"embedding_times": lambda self, k: k},
    "time-float64": {"embeddings": _float64_embedding},
    "grid-next": {"times": lambda self, k: (k + 1) * np.float32(1 / self.T)},
    "grid-inclusive": {"times": lambda self, k: k / np.float32(max(self.T - 1, 1))},
    "grid-reversed": {"times": lambda self, k: 1 - k * np.float32(1 / self.T)},
    "grid-midpoint": {"times": lambda self, k: (k + np.float32(0.5)) * np.float32(1 / self.T)},
}

HELD_OUT_NETWORK: dict[str, Override] = {
    "unknown-gelu-constant": {"activation": _gelu(cubic=0.04)},
    "unknown-layer-norm-eps-1e-4": {"layer_norm": lambda self, name: nn.LayerNorm(1e-4, name=name)},
    "unknown-critic-offset": {
        "members": lambda self, obs, a, critic: (
            Port.members(self, obs, a, critic) + 0.01 * jnp.mean(a, axis=-1)
        )
    },
    "unknown-time-quantised": {
        "embedding_times": lambda self, k: np.round(self.times(k) * 4) / np.float32(4)
    },
}
