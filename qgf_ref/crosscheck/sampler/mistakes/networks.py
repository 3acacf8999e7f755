"""Mistakes in what the networks compute: activation, LayerNorm, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import (
    Applies,
    Mistake,
    changing_options,
    one,
    substituting_everywhere,
)
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members, has_norms, with_member_0
from qgf_ref.crosscheck.sampler.port import Port, Squashed
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import target_value
from qgf_ref.ops.layer_norm import layer_norm
from qgf_ref.ops.linear import LinearCache, linear, linear_jvp, linear_vjp


def any_network(test: Callable[[Any], bool]) -> Applies:
    """Whether the test holds of one of the networks in which a port's actions may be wrong."""
    return lambda port: any(test(net) for net in port.networks)


def has_norm(net: Any) -> bool:
    """Whether a network has a LayerNorm."""
    return any(layer.scale is not None for layer in net.params.layers)


def _unbiased(x: Array, scale: Array, offset: Array, eps: float, variance: Any) -> Any:
    # c/√(s/(F−1) + ε) = √((F−1)/F)·c/√(s/F + ε(F−1)/F)
    share = (x.shape[-1] - 1) / x.shape[-1]
    return layer_norm(x, scale * np.sqrt(share).astype(scale.dtype), offset, eps * share, variance)


def _rounded(x: Array, bits: int) -> Array:
    """x with `bits` explicit mantissa bits of float32, to nearest even."""
    drop = np.uint32(23 - bits)
    word = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    odd = (word >> drop) & np.uint32(1)
    with np.errstate(over="ignore"):
        word = ((word + half + odd) >> drop) << drop
    return word.view(np.float32).astype(x.dtype)


def _matmul_with(bits: int) -> dict[Any, Any]:
    def product(x: Array, kernel: Array, bias: Array) -> Any:
        return linear(_rounded(x, bits), _rounded(kernel, bits), bias)

    def product_jvp(x_dot: Array, cache: LinearCache) -> Array:
        return linear_jvp(_rounded(x_dot, bits), cache)

    def product_vjp(y_bar: Array, cache: LinearCache) -> Array:
        return linear_vjp(_rounded(y_bar, bits), cache)

    return {linear: product, linear_jvp: product_jvp, linear_vjp: product_vjp}


def _forward_only_member_0(port: Port) -> Port:
    def rule(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance = base(flow, step)
        if guidance.query is None or len(step.action) < 2:
            return guidance
        q, _ = with_member_0(flow.critic).forward(step.obs, guidance.query)
        return replace(guidance, q=q)

    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        wrong = replace(flow, critic=with_member_0(flow.critic))
        return target_value(wrong if len(action) > 1 else flow, obs, unclipped, action)

    return port.with_rule(rule).with_scheme(rank=rank)


def _normed_with_another_eps(eps: float) -> Callable[[Port], bool]:
    return lambda port: has_norms(port) and port.field.options.layer_norm_eps != eps


GELU = any_network(lambda net: net.options.activation == "gelu")
RIVALS = ("gelu_erf", "gelu_quick", "relu", "silu")
"""Activations that the bank tries in the place of gelu."""
FLAX_EPS = "the official code's flax LayerNorm has 1e-6 inside the square root"

NETWORKS: tuple[Mistake, ...] = (
    Mistake(
        "layer-norm-member-0-forward", "network", "q",
        "forward-only critic values use member 0's LayerNorm for all members, gradients do not: "
        "what jaxlib 0.4.30 does on CPU under jit (official.md, D1); set "
        "XLA_FLAGS=--xla_disable_hlo_passes=onednn-ops-rewriter",
        one(_forward_only_member_0),
        lambda port: has_members(port) and has_norms(port) and not port.ranks_online,
    ),
    Mistake(
        "gelu-erf", "network", "v",
        "GELU with the error function: the official code uses the tanh approximation (flax's "
        "nn.gelu; torch.nn.GELU needs approximate='tanh')",
        changing_options(activation="gelu_erf"), GELU,
    ),
    Mistake(
        "gelu-quick", "network", "v",
        "GELU as x·sigmoid(1.702x): the official code uses the tanh approximation",
        changing_options(activation="gelu_quick"), GELU,
    ),
    Mistake(
        "activation-relu", "network", "v", "ReLU for GELU",
        changing_options(activation="relu"), GELU,
    ),
    Mistake(
        "activation-silu", "network", "v", "SiLU for GELU",
        changing_options(activation="silu"), GELU,
    ),
    Mistake(
        "activation-gelu", "network", "v",
        "GELU where the checkpoint's options say another activation: the official get_activation "
        "silently takes gelu for a name that it does not know (official.md, D16)",
        changing_options(activation="gelu"),
        any_network(lambda net: net.options.activation != "gelu"),
    ),
    Mistake(
        "layer-norm-eps-1e-5", "network", "v",
        f"LayerNorm epsilon is 1e-5 (PyTorch's default): {FLAX_EPS}",
        changing_options(layer_norm_eps=1e-5), _normed_with_another_eps(1e-5),
    ),
    Mistake(
        "layer-norm-eps-1e-3", "network", "v",
        f"LayerNorm epsilon is 1e-3 (Keras's default): {FLAX_EPS}",
        changing_options(layer_norm_eps=1e-3), _normed_with_another_eps(1e-3),
    ),
    Mistake(
        "layer-norm-unbiased", "network", "v",
        "LayerNorm divides the variance by F − 1 (torch.var's default): it must divide by F",
        substituting_everywhere({layer_norm: _unbiased}), has_norms,
    ),
    Mistake(
        "activation-before-norm", "network", "v",
        "activation before LayerNorm: the official order is Dense, LayerNorm, activation",
        changing_options(norm_after_activation=True),
        any_network(lambda net: has_norm(net) and not net.options.norm_after_activation),
    ),
    Mistake(
        "policy-output-tanh", "network", "v",
        "tanh on the policy's output: a velocity is not bounded",
        one(lambda port: port.with_field(Squashed)),
    ),
    Mistake(
        "matmul-tf32", "network", "v",
        "matrix products in TF32 (10 bits of mantissa), the default of recent NVIDIA GPUs: set "
        "jax_default_matmul_precision='highest' or torch.backends.cuda.matmul.allow_tf32=False",
        substituting_everywhere(_matmul_with(10)), coarse=True,
    ),
    Mistake(
        "matmul-bf16", "network", "v",
        "matrix products in bfloat16 (7 bits of mantissa): autocast, or the default of TPUs",
        substituting_everywhere(_matmul_with(7)), coarse=True,
    ),
)  # fmt: skip
