"""Mistakes inside the networks: activation, LayerNorm, input order, parameters, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.mistakes.base import (
    Mistake,
    changing_options,
    changing_parameters,
    in_networks,
    one,
    substituting_everywhere,
)
from qgf_ref.crosscheck.port import Port, Squashed, Substituted
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import target_value
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.ops.activations import ActivationCache, activation, activation_vjp
from qgf_ref.ops.layer_norm import layer_norm, layer_norm_vjp
from qgf_ref.ops.linear import LinearCache, linear, linear_vjp

LayerChange = Callable[[LayerParams, int, int], LayerParams]
"""layer, its index, index of the output layer → layer"""


def _layers(change: LayerChange) -> Callable[[MLPParams], MLPParams]:
    def apply(params: MLPParams) -> MLPParams:
        last = len(params.layers) - 1
        return MLPParams(tuple(change(x, i, last) for i, x in enumerate(params.layers)))

    return apply


def _activation_is(name: str) -> Callable[[Port], bool]:
    return lambda port: port.field.options.activation == name


def _any_layer(test: Callable[[LayerParams], bool]) -> Callable[[Port], bool]:
    return lambda port: any(
        test(layer) for net in (port.field, port.critic) for layer in net.params.layers[:-1]
    )


def _has_norm(layer: LayerParams) -> bool:
    return layer.scale is not None


def _square(layer: LayerParams) -> bool:
    return bool(layer.kernel.shape[-1] == layer.kernel.shape[-2])


_has_norms = _any_layer(_has_norm)


def _policy_params(change: Callable[[MLPParams], MLPParams]) -> Callable[[Port], Port]:
    return lambda port: port.with_policy(lambda net: replace(net, params=change(net.params)))


def _critic_params(change: Callable[[MLPParams], MLPParams]) -> Callable[[Port], Port]:
    return lambda port: port.with_critics(lambda net: replace(net, params=change(net.params)))


def _unbiased(x: Array, scale: Array, offset: Array, eps: float, variance: Any) -> Any:
    # c/√(s/(F−1) + ε) = √((F−1)/F)·c/√(s/F + ε(F−1)/F)
    share = (x.shape[-1] - 1) / x.shape[-1]
    return layer_norm(x, scale * np.sqrt(share).astype(scale.dtype), offset, eps * share, variance)


def _without_affine(layer: LayerParams, index: int, last: int) -> LayerParams:
    if layer.scale is None or layer.offset is None:
        return layer
    return replace(layer, scale=np.ones_like(layer.scale), offset=np.zeros_like(layer.offset))


def _without_offset(layer: LayerParams, index: int, last: int) -> LayerParams:
    return layer if layer.offset is None else replace(layer, offset=np.zeros_like(layer.offset))


def _without_bias(layer: LayerParams, index: int, last: int) -> LayerParams:
    return replace(layer, bias=np.zeros_like(layer.bias))


def _transposed(layer: LayerParams, index: int, last: int) -> LayerParams:
    if index == last or not _square(layer):
        return layer
    return replace(layer, kernel=np.swapaxes(layer.kernel, -1, -2))


def _member_0(layer: LayerParams, index: int, last: int) -> LayerParams:
    if layer.scale is None or layer.offset is None:
        return layer
    scale, offset = (np.broadcast_to(x[:1], x.shape) for x in (layer.scale, layer.offset))
    return replace(layer, scale=scale, offset=offset)


def _reshaped(layer: LayerParams, index: int, last: int) -> LayerParams:
    E, fan_in, fan_out = layer.kernel.shape
    return replace(layer, kernel=layer.kernel.reshape(fan_in, E, fan_out).transpose(1, 0, 2))


def _normed_last_hidden(layer: LayerParams, index: int, last: int) -> LayerParams:
    if index != last - 1 or layer.scale is not None:
        return layer
    return replace(layer, scale=np.ones_like(layer.bias), offset=np.zeros_like(layer.bias))


def _unnormed_last_hidden(layer: LayerParams, index: int, last: int) -> LayerParams:
    return replace(layer, scale=None, offset=None) if index == last - 1 else layer


def _linear_last_hidden(params: MLPParams) -> MLPParams:
    *rest, hidden, output = params.layers
    kernel = hidden.kernel @ output.kernel
    merged = LayerParams(kernel, hidden.bias @ output.kernel + output.bias)
    return MLPParams((*rest, merged))


def _last_hidden_is_bare(port: Port) -> bool:
    layers = port.field.params.layers
    return len(layers) > 1 and layers[-2].scale is None


def _inputs_reordered(order: Callable[[int, int, int], list[int]]) -> Callable[[Port], Port]:
    """order(O, D, width): which rows of the first kernel the inputs [s, a, emb] meet."""

    def change(net: Any, obs_dim: int, action_dim: int) -> Any:
        first, *rest = net.params.layers
        rows = order(obs_dim, action_dim, first.kernel.shape[-2])
        moved = replace(first, kernel=first.kernel[..., rows, :])
        return replace(net, params=MLPParams((moved, *rest)))

    def policy(port: Port) -> Port:
        sizes = port.field.obs_dim, port.field.action_dim
        return port.with_policy(lambda net: change(net, *sizes))

    def critics(port: Port) -> Port:
        sizes = port.field.obs_dim, port.field.action_dim
        return port.with_critics(lambda net: change(net, *sizes))

    return policy if order in (_action_first, _time_first) else critics


def _action_first(O: int, D: int, width: int) -> list[int]:
    return [*range(D, D + O), *range(D), *range(O + D, width)]


def _critic_action_first(O: int, D: int, width: int) -> list[int]:
    return [*range(D, D + O), *range(D)]


def _time_first(O: int, D: int, width: int) -> list[int]:
    dim = width - O - D
    return [*range(dim, width), *range(dim)]


class _ActivationFirst:
    """linear → activation → LayerNorm, where the reference has linear → LayerNorm → activation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: Array | None = None

    def norm(self, x: Array, *args: Any) -> Any:
        y, inner = activation(x, self.name)
        self.done, cache = layer_norm(y, *args)
        return self.done, (cache, inner)

    def norm_vjp(self, y_bar: Array, cache: Any) -> Array:
        return activation_vjp(layer_norm_vjp(y_bar, cache[0]), cache[1])

    def act(self, x: Array, name: str) -> Any:
        return (x, None) if x is self.done else activation(x, name)

    def act_vjp(self, y_bar: Array, cache: ActivationCache | None) -> Array:
        return y_bar if cache is None else activation_vjp(y_bar, cache)


def _activation_first(net: Any) -> Any:
    order = _ActivationFirst(net.options.activation)
    by = {
        layer_norm: order.norm,
        layer_norm_vjp: order.norm_vjp,
        activation: order.act,
        activation_vjp: order.act_vjp,
    }
    return replace(net, kernels=Substituted(net.kernels, by))


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

    def product_vjp(y_bar: Array, cache: LinearCache) -> Array:
        return linear_vjp(_rounded(y_bar, bits), cache)

    return {linear: product, linear_vjp: product_vjp}


def _with_member_0(critic: Any) -> MLPCritic:
    while not isinstance(critic, MLPCritic):  # another mistake may have wrapped it
        critic = critic.critic
    return replace(critic, params=_layers(_member_0)(critic.params))


def _forward_only_member_0(port: Port) -> Port:
    def rule(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance = base(flow, step)
        if guidance.query is None or len(step.action) < 2:
            return guidance
        q, _ = _with_member_0(flow.critic).forward(step.obs, guidance.query)
        return replace(guidance, q=q)

    def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
        wrong = replace(flow, critic=_with_member_0(flow.critic))
        return target_value(wrong if len(action) > 1 else flow, obs, unclipped, action)

    return port.with_rule(rule).with_scheme(rank=rank)


def _members(port: Port) -> bool:
    return (port.critic.params.ensemble or 1) > 1


GELU = _activation_is("gelu")
FLAX_EPS = "the official code's flax LayerNorm has 1e-6 inside the square root"

NETWORKS: tuple[Mistake, ...] = (
    Mistake(
        "layer-norm-affine-missing", "network", "v",
        "LayerNorm's scale and bias are not loaded (1 and 0 are used): they are trained parameters",
        changing_parameters(_layers(_without_affine)), _has_norms,
    ),
    Mistake(
        "layer-norm-offset-missing", "network", "v",
        "LayerNorm's bias is not loaded or not added: flax's LayerNorm has scale and bias",
        changing_parameters(_layers(_without_offset)), _has_norms,
    ),
    Mistake(
        "layer-norm-member-0", "network", "q",
        "every ensemble member uses member 0's LayerNorm scale and bias: each member has its own",
        one(lambda port: port.with_critics(_with_member_0)),
        lambda port: _members(port) and _has_norms(port),
    ),
    Mistake(
        "layer-norm-member-0-forward", "network", "q",
        "forward-only critic values use member 0's LayerNorm for all members, gradients do not: "
        "what jaxlib 0.4.30 does on CPU under jit (official.md, D1); set "
        "XLA_FLAGS=--xla_disable_hlo_passes=onednn-ops-rewriter",
        one(_forward_only_member_0), lambda port: _members(port) and _has_norms(port),
    ),
    Mistake(
        "policy-norm-last-hidden", "network", "v",
        "a LayerNorm on the policy's last hidden layer: the official actor has none there "
        "(the critic has)",
        one(_policy_params(_layers(_normed_last_hidden))), _last_hidden_is_bare,
    ),
    Mistake(
        "critic-norm-last-hidden-missing", "network", "q",
        "no LayerNorm on the critic's last hidden layer: the official critic has one on every "
        "hidden layer (the actor lacks the last)",
        one(_critic_params(_layers(_unnormed_last_hidden))),
        lambda port: port.critic.params.layers[-2].scale is not None,
    ),
    Mistake(
        "policy-activation-last-hidden-missing", "network", "v",
        "no activation on the policy's last hidden layer: the official trunk has "
        "activate_final=True",
        one(_policy_params(_linear_last_hidden)), _last_hidden_is_bare,
    ),
    Mistake(
        "biases-missing", "network", "v",
        "the Dense layers' biases are not loaded or not added",
        changing_parameters(_layers(_without_bias)),
    ),
    Mistake(
        "kernels-transposed", "network", "v",
        "square kernels are transposed: flax stores (in, out), torch.nn.Linear (out, in)",
        changing_parameters(_layers(_transposed)),
        _any_layer(_square),
    ),
    Mistake(
        "critic-input-action-first", "network", "q",
        "the critic's input is [action, obs]: the official order is [obs, action]",
        one(_inputs_reordered(_critic_action_first)),
    ),
    Mistake(
        "policy-input-action-first", "network", "v",
        "the policy's input is [action, obs, time]: the official order is [obs, action, time]",
        one(_inputs_reordered(_action_first)),
    ),
    Mistake(
        "policy-input-time-first", "network", "v",
        "the policy's input is [time, obs, action]: the official order is [obs, action, time]",
        one(_inputs_reordered(_time_first)),
    ),
    Mistake(
        "ensemble-axis-reshaped", "network", "q",
        "the critic's kernels (E, in, out) were read as (in, E, out): the ensemble axis leads",
        one(_critic_params(_layers(_reshaped))), _members,
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
        changing_options(activation="gelu"), lambda port: not GELU(port),
    ),
    Mistake(
        "layer-norm-eps-1e-5", "network", "v",
        f"LayerNorm epsilon is 1e-5 (PyTorch's default): {FLAX_EPS}",
        changing_options(layer_norm_eps=1e-5), _has_norms,
    ),
    Mistake(
        "layer-norm-eps-1e-3", "network", "v",
        f"LayerNorm epsilon is 1e-3 (Keras's default): {FLAX_EPS}",
        changing_options(layer_norm_eps=1e-3), _has_norms,
    ),
    Mistake(
        "layer-norm-unbiased", "network", "v",
        "LayerNorm divides the variance by F − 1 (torch.var's default): it must divide by F",
        substituting_everywhere({layer_norm: _unbiased}), _has_norms,
    ),
    Mistake(
        "activation-before-norm", "network", "v",
        "activation before LayerNorm: the official order is Dense, LayerNorm, activation",
        in_networks(
            lambda port: port.with_policy(_activation_first),
            lambda port: port.with_critics(_activation_first),
        ),
        _has_norms,
    ),
    Mistake(
        "policy-output-tanh", "network", "v",
        "tanh on the policy's output: a velocity is not bounded",
        one(lambda port: replace(port, flow=replace(port.flow, field=Squashed(port.field)))),
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
