"""Mistakes of the PyTorch port in its networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.torch_mistake import (
    Mistake,
    gelu,
    has_affine,
    has_norm,
    has_offset,
    members_norms_differ,
    policy_hidden,
    several_members,
    some,
    square_hidden,
)
from benchmarks.peers.torch_sampler import Layer, TorchSampler

Right = TorchSampler


def critics(sampler: TorchSampler) -> list[Any]:
    """Every member of the target and of the online critic."""
    return [*sampler.target, *sampler.online]


def layers(sampler: TorchSampler) -> Iterator[Layer]:
    """Every layer of the policy and of both critics."""
    for net in (sampler.policy_net, *critics(sampler)):
        yield from net


def hidden(sampler: TorchSampler) -> Iterator[Layer]:
    """As `layers`, without the output layers."""
    for net in (sampler.policy_net, *critics(sampler)):
        yield from net[:-1]


def activation(module: Callable[[], nn.Module]) -> Callable[[TorchSampler], None]:
    """Another activation in every hidden layer."""

    def edit(sampler: TorchSampler) -> None:
        for layer in hidden(sampler):
            layer.activation = module()

    return edit


def norms(change: Callable[[Any], Any]) -> Callable[[TorchSampler], None]:
    """change(module) for every LayerNorm; what it returns, if anything, replaces the module."""

    def edit(sampler: TorchSampler) -> None:
        for layer in layers(sampler):
            if isinstance(layer.norm, nn.LayerNorm):
                layer.norm = change(layer.norm) or layer.norm

    return edit


def norm_eps(eps: float) -> Mistake:
    """Another eps in every LayerNorm."""
    return Mistake(edit=norms(lambda norm: setattr(norm, "eps", eps)), applies=has_norm)


def product(rounding: Callable[[Tensor], Tensor]) -> Mistake:
    """Both operands of every Dense product rounded, forwards and backwards."""

    def edit(sampler: TorchSampler) -> None:
        for layer in layers(sampler):
            layer.dense = RoundedDense(layer.dense, rounding)

    return Mistake(edit=edit)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.f(x)


class UnbiasedNorm(nn.Module):
    """LayerNorm whose variance is divided by F − 1."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) → (B, F)."""
        std = torch.sqrt(x.var(-1, keepdim=True, unbiased=True) + self.norm.eps)
        y: Tensor = (x - x.mean(-1, keepdim=True)) / std * self.norm.weight + self.norm.bias
        return y


class RoundedDense(nn.Module):
    """x̃ W̃ᵀ + b with rounded operands; the vjp in x rounds its operands alike."""

    def __init__(self, dense: Any, rounding: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense, self.rounding = dense, rounding

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) → (B, F)."""
        y: Tensor = _RoundedProduct.apply(x, self.dense.weight, self.rounding) + self.dense.bias
        return y


class _RoundedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rounding: Any) -> Tensor:  # type: ignore[override, unused-ignore]
        ctx.weight, ctx.rounding = rounding(weight), rounding
        return rounding(x) @ ctx.weight.T

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override, unused-ignore]
        return ctx.rounding(y_bar) @ ctx.weight, None, None


def tf32(x: Tensor) -> Tensor:
    """Float32 rounded to 10 explicit mantissa bits, to nearest even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_of_another_constant(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.04 * x**3)))


def _offset_missing(norm: Any) -> None:
    norm.bias.zero_()


def _affine_missing(norm: Any) -> None:
    norm.weight.fill_(1)
    norm.bias.zero_()


def member_0_norms(members: nn.ModuleList) -> nn.ModuleList:
    """Every member gets member 0's LayerNorm modules."""
    first: Any = members[0]
    for member in members:
        for layer, of_first in zip(member, first):
            layer.norm = of_first.norm
    return members


def _shared_norms(sampler: TorchSampler) -> None:
    member_0_norms(sampler.target)
    member_0_norms(sampler.online)


def _members_of_d1(self: TorchSampler, members: Any, obs: Tensor, a: Tensor) -> Tensor:
    if len(a) > 1 and not torch.is_grad_enabled():
        members = member_0_norms(copy.deepcopy(members))
    return Right.members(self, members, obs, a)


def _norm_last_hidden(sampler: TorchSampler) -> None:
    layer: Any = sampler.policy_net[-2]
    layer.norm = nn.LayerNorm(layer.dense.out_features, eps=1e-6, elementwise_affine=False)


def _no_norm_last_hidden(sampler: TorchSampler) -> None:
    for critic in critics(sampler):
        critic[-2].norm = nn.Identity()


def _no_activation_last_hidden(sampler: TorchSampler) -> None:
    sampler.policy_net[-2].activation = nn.Identity()


def _activation_first(sampler: TorchSampler) -> None:
    for layer in layers(sampler):
        if isinstance(layer.norm, nn.LayerNorm):
            layer.norm, layer.activation = layer.activation, layer.norm


def _no_biases(sampler: TorchSampler) -> None:
    for layer in layers(sampler):
        layer.dense.bias.zero_()


def _transposed(sampler: TorchSampler) -> None:
    for layer in hidden(sampler):
        rows, columns = layer.dense.weight.shape
        if rows == columns:
            layer.dense.weight.data = layer.dense.weight.data.T.clone()


def _reshaped(sampler: TorchSampler) -> None:
    for members in (sampler.target, sampler.online):
        for of_member in zip(*members):
            kernels = torch.stack([layer.dense.weight.T for layer in of_member])
            E, fan_in, fan_out = kernels.shape
            mixed = kernels.reshape(fan_in, E, fan_out).transpose(0, 1)
            for layer, kernel in zip(of_member, mixed):
                layer.dense.weight.data = kernel.T.clone()


NETWORKS = {
    "gelu-erf": Mistake(edit=activation(nn.GELU), applies=gelu),
    "gelu-quick": Mistake(edit=activation(lambda: Function(_quick_gelu)), applies=gelu),
    "activation-relu": Mistake(edit=activation(nn.ReLU), applies=gelu),
    "activation-silu": Mistake(edit=activation(nn.SiLU), applies=gelu),
    "activation-gelu": Mistake(
        edit=activation(lambda: nn.GELU(approximate="tanh")), applies=lambda ck: not gelu(ck)
    ),
    "layer-norm-eps-1e-5": norm_eps(1e-5),
    "layer-norm-eps-1e-3": norm_eps(1e-3),
    "layer-norm-unbiased": Mistake(edit=norms(UnbiasedNorm), applies=has_norm),
    "layer-norm-affine-missing": Mistake(edit=norms(_affine_missing), applies=has_affine),
    "layer-norm-offset-missing": Mistake(edit=norms(_offset_missing), applies=has_offset),
    "layer-norm-member-0": Mistake(edit=_shared_norms, applies=members_norms_differ),
    "layer-norm-member-0-forward": Mistake(
        {"members": _members_of_d1}, applies=members_norms_differ
    ),
    "policy-norm-last-hidden": Mistake(
        edit=_norm_last_hidden,
        applies=lambda ck: policy_hidden(ck) and ck.policy.layers[-2].scale is None,
    ),
    "critic-norm-last-hidden-missing": Mistake(
        edit=_no_norm_last_hidden,
        applies=lambda ck: (
            len(ck.target_critic.layers) > 1 and ck.target_critic.layers[-2].scale is not None
        ),
    ),
    "policy-activation-last-hidden-missing": Mistake(
        edit=_no_activation_last_hidden, applies=policy_hidden
    ),
    "activation-before-norm": Mistake(edit=_activation_first, applies=has_norm),
    "biases-missing": Mistake(
        edit=_no_biases, applies=lambda ck: some(ck, "bias", lambda x: bool((x != 0).any()))
    ),
    "kernels-transposed": Mistake(edit=_transposed, applies=square_hidden),
    "critic-input-action-first": Mistake(
        {"critic_input": lambda self, obs, a: torch.cat([a, obs], -1)}
    ),
    "policy-input-action-first": Mistake(
        {"policy_input": lambda self, obs, a, emb: torch.cat([a, obs, emb], -1)}
    ),
    "policy-input-time-first": Mistake(
        {"policy_input": lambda self, obs, a, emb: torch.cat([emb, obs, a], -1)}
    ),
    "ensemble-axis-reshaped": Mistake(edit=_reshaped, applies=several_members),
    "policy-output-tanh": Mistake(
        {"policy": lambda self, obs, a, t: torch.tanh(Right.policy(self, obs, a, t))}
    ),
    "matmul-tf32": product(tf32),
    "matmul-bf16": product(lambda x: x.bfloat16().float()),
}


HELD_OUT = {
    "unknown-gelu-constant": Mistake(
        edit=activation(lambda: Function(_gelu_of_another_constant)), applies=gelu
    ),
    "unknown-layer-norm-eps-1e-4": norm_eps(1e-4),
    "unknown-critic-offset": Mistake(
        {
            "members": lambda self, members, obs, a: (
                Right.members(self, members, obs, a) + 0.01 * a.mean(-1)
            )
        }
    ),
}
