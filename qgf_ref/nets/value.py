"""The state value V(s)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qgf_ref.arrays import Array
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels


@dataclass(frozen=True)
class MLPValue(JointMLP):
    """V(s) = MLP(s). Source: official.md, section 1 (Value without an ensemble)."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs",)
    active: ClassVar[Input] = "obs"
    scalar: ClassVar[bool] = True

    def forward(self, obs: Array) -> tuple[Array, JointCache]:
        """V (B,). obs (B, O)."""
        return self.joint(obs=obs)
