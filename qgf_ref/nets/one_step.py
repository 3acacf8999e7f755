"""A policy that makes an action of noise in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qgf_ref.arrays import Array
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels


@dataclass(frozen=True)
class OneStepPolicy(JointMLP):
    """μ(s, z) = MLP([s, z]): no time, no steps. Source: baselines.md, section 1 (FQL)."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "noise")
    active: ClassVar[Input] = "noise"

    @property
    def action_dim(self) -> int:
        """D."""
        return self.params.out_features

    @property
    def obs_dim(self) -> int:
        """O."""
        return self.params.in_features - self.action_dim

    def forward(self, obs: Array, noise: Array) -> tuple[Array, JointCache]:
        """a (B, D), not clipped. obs (B, O), noise (B, D)."""
        return self.joint(obs=obs, noise=noise)
