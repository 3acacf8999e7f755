"""The noise predictor of a diffusion policy."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.arrays import Array
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels


@dataclass(frozen=True)
class NoisePredictor(JointMLP):
    """ε(s, x, k) = MLP([x, s, MLP₀(Fourier features of k)]): action before observation.

    k counts diffusion steps 1 … T and is never divided by T. Source: baselines.md, sections 1, 7.
    """

    params: MLPParams
    options: MLPOptions = MLPOptions("mish")
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("action", "obs", "step")

    @property
    def action_dim(self) -> int:
        """D."""
        return self.params.out_features

    def forward(self, obs: Array, action: Array, step: int | Array) -> tuple[Array, JointCache]:
        """ε (B, D). obs (B, O), noisy action (B, D), step k () or (B,)."""
        return self.joint(obs=obs, action=action, step=step)
