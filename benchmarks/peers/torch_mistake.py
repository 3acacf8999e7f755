"""What a mistake of the PyTorch port is, and to which checkpoints it makes a difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.peers.torch_sampler import ESTIMATORS, TorchSampler
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array

GUIDED = ("ood", "qgf", "qgf_jacobian", "bptt")
ONE_STEP = ("none", "qgf", "qgf_jacobian")
"""The estimators that have a gradient, and those whose trace holds the one-step estimate."""


def always(checkpoint: Checkpoint) -> bool:
    """Of a mistake that shows with every checkpoint."""
    return True


@dataclass(frozen=True)
class Mistake:
    """methods replaces methods of `TorchSampler`; edit changes its networks once they are loaded.

    applies     whether it changes anything, given the options, shapes and parameters
    estimators  those in whose trace it shows
    """

    methods: dict[str, Callable[..., Any]] = field(default_factory=dict)
    edit: Callable[[TorchSampler], None] | None = None
    applies: Callable[[Checkpoint], bool] = always
    estimators: tuple[str, ...] = ESTIMATORS


def several_steps(ck: Checkpoint) -> bool:
    """T > 1."""
    return ck.options.denoise_steps > 1


def several_members(ck: Checkpoint) -> bool:
    """E > 1."""
    return (ck.target_critic.ensemble or 0) > 1


def gelu(ck: Checkpoint) -> bool:
    """The activation is gelu."""
    return ck.options.activation == "gelu"


def some(ck: Checkpoint, part: str, differs: Callable[[Array], bool]) -> bool:
    """Whether any layer of policy or target critic has such a part."""
    layers = (*ck.policy.layers, *ck.target_critic.layers)
    found = (getattr(layer, part) for layer in layers)
    return any(x is not None and differs(x) for x in found)


def has_norm(ck: Checkpoint) -> bool:
    """Some layer of policy or critic has a LayerNorm."""
    return some(ck, "scale", lambda x: True)


def has_offset(ck: Checkpoint) -> bool:
    """Some LayerNorm offset is not 0."""
    return some(ck, "offset", lambda x: bool((x != 0).any()))


def has_affine(ck: Checkpoint) -> bool:
    """Some LayerNorm scale is not 1, or offset not 0."""
    return has_offset(ck) or some(ck, "scale", lambda x: bool((x != 1).any()))


def members_norms_differ(ck: Checkpoint) -> bool:
    """The critic's members do not all have member 0's LayerNorm parameters."""
    parts = [p for x in ck.target_critic.layers for p in (x.scale, x.offset) if p is not None]
    return any(bool((part != part[:1]).any()) for part in parts)


def online_differs(ck: Checkpoint) -> bool:
    """The online critic is not a copy of the target critic."""
    pairs = zip(ck.critic.arrays(), ck.target_critic.arrays())
    return any(not np.array_equal(a, b) for a, b in pairs)


def square_hidden(ck: Checkpoint) -> bool:
    """Some hidden kernel of policy or critic is square."""
    layers = (*ck.policy.layers[:-1], *ck.target_critic.layers[:-1])
    return any(layer.kernel.shape[-1] == layer.kernel.shape[-2] for layer in layers)


def policy_hidden(ck: Checkpoint) -> bool:
    """The policy has a hidden layer."""
    return len(ck.policy.layers) > 1


def minimum(ck: Checkpoint) -> bool:
    """The minimum of several members."""
    return several_members(ck) and ck.options.q_aggregation == "min"
