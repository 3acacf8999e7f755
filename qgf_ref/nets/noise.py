"""The noise predictor of a diffusion policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

    @property
    def obs_dim(self) -> int:
        """O."""
        encoder = self.params.encoder
        features = 0 if encoder is None else encoder.out_features
        return self.params.in_features - self.action_dim - features

    def encoded_step(self, step: Array) -> Array:
        """MLP₀(Fourier features of k) (B, F) of steps k (B,), in the parameters' dtype."""
        columns, _ = self._encoded("step", {"step": step}, np.zeros((len(step), 0), self.dtype))
        return columns

    def forward(self, obs: Array, action: Array, step: int | Array) -> tuple[Array, JointCache]:
        """ε (B, D). obs (B, O), noisy action (B, D), step k () or (B,)."""
        return self.joint(obs=obs, action=action, step=step)
