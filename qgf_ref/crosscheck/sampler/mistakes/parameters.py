"""Mistakes in the parameters: what is loaded, what is left out, in which layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.crosscheck.sampler.mistakes.base import Mistake, changing_parameters, one
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.nets.probability import ProbabilityCritic

LayerChange = Callable[[LayerParams, int, int], LayerParams]
"""layer, its index, index of the output layer → layer"""


def _layers(change: LayerChange) -> Callable[[MLPParams], MLPParams]:
    def apply(params: MLPParams) -> MLPParams:
        last = len(params.layers) - 1
        changed = tuple(change(x, i, last) for i, x in enumerate(params.layers))
        encoder = None if params.encoder is None else apply(params.encoder)
        return replace(params, layers=changed, encoder=encoder)

    return apply


def _any_layer(test: Callable[[LayerParams], bool]) -> Callable[[Port], bool]:
    return lambda port: any(
        test(layer) for net in port.networks for layer in net.params.layers[:-1]
    )


def _has_norm(layer: LayerParams) -> bool:
    return layer.scale is not None


def _square(layer: LayerParams) -> bool:
    return bool(layer.kernel.shape[-1] == layer.kernel.shape[-2])


has_norms = _any_layer(_has_norm)


def _policy_params(change: Callable[[MLPParams], MLPParams]) -> Callable[[Port], Port]:
    return lambda port: port.with_policy(lambda net: replace(net, params=change(net.params)))


def _critic_params(change: Callable[[MLPParams], MLPParams]) -> Callable[[Port], Port]:
    return lambda port: port.with_critics(lambda net: replace(net, params=change(net.params)))


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
    return replace(params, layers=(*rest, merged))


def _last_hidden_is_bare(port: Port) -> bool:
    layers = port.field.params.layers
    return len(layers) > 1 and layers[-2].scale is None


def _inputs_reordered(order: Callable[[int, int, int], list[int]]) -> Callable[[Port], Port]:
    """order(O, D, width): which rows of the first kernel the inputs [s, a, emb] meet."""

    def change(net: Any, obs_dim: int, action_dim: int) -> Any:
        first, *rest = net.params.layers
        rows = order(obs_dim, action_dim, first.kernel.shape[-2])
        moved = replace(first, kernel=first.kernel[..., rows, :])
        return replace(net, params=replace(net.params, layers=(moved, *rest)))

    def policy(port: Port) -> Port:
        sizes = port.field.obs_dim, port.field.action_dim
        return port.with_policy(lambda net: change(net, *sizes))

    def critics(port: Port) -> Port:
        sizes = port.field.obs_dim, port.field.action_dim
        return port.with_critics(lambda net: change(net, *sizes))

    return policy if order in (_action_first, _time_first) else critics


def _action_first(O: int, D: int, width: int) -> list[int]:
    return [*range(D, D + O), *range(D), *range(O + D, width)]


def reads_officially(port: Port) -> bool:
    """Whether the policy's columns are [obs, action, time], the time embedded."""
    return tuple(port.field.inputs[:3]) == ("obs", "action", "time")


def _critic_action_first(O: int, D: int, width: int) -> list[int]:
    return [*range(D, D + O), *range(D)]


def _time_first(O: int, D: int, width: int) -> list[int]:
    dim = width - O - D
    return [*range(dim, width), *range(dim)]


def with_member_0(critic: Any) -> Any:
    """The critic whose members all have member 0's LayerNorm."""
    if isinstance(critic, ProbabilityCritic):
        return replace(critic, logits=with_member_0(critic.logits))
    while not isinstance(critic, MLPCritic):  # another mistake may have wrapped it
        critic = critic.critic
    return replace(critic, params=_layers(_member_0)(critic.params))


def has_members(port: Port) -> bool:
    """Whether the critic is an ensemble of several."""
    return (port.members or 1) > 1


PARAMETERS: tuple[Mistake, ...] = (
    Mistake(
        "layer-norm-affine-missing", "network", "v",
        "LayerNorm's scale and bias are not loaded (1 and 0 are used): they are trained parameters",
        changing_parameters(_layers(_without_affine)), has_norms,
    ),
    Mistake(
        "layer-norm-offset-missing", "network", "v",
        "LayerNorm's bias is not loaded or not added: flax's LayerNorm has scale and bias",
        changing_parameters(_layers(_without_offset)), has_norms,
    ),
    Mistake(
        "layer-norm-member-0", "network", "q",
        "every ensemble member uses member 0's LayerNorm scale and bias: each member has its own",
        one(lambda port: port.with_critics(with_member_0)),
        lambda port: has_members(port) and has_norms(port),
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
        one(_inputs_reordered(_action_first)), reads_officially,
    ),
    Mistake(
        "policy-input-time-first", "network", "v",
        "the policy's input is [time, obs, action]: the official order is [obs, action, time]",
        one(_inputs_reordered(_time_first)), reads_officially,
    ),
    Mistake(
        "ensemble-axis-reshaped", "network", "q",
        "the critic's kernels (E, in, out) were read as (in, E, out): the ensemble axis leads",
        one(_critic_params(_layers(_reshaped))), has_members,
    ),
)  # fmt: skip
