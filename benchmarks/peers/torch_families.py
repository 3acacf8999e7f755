"""Velocity fields as they are published, no MLPs of ours: four families, drawn at random.

u(obs, x, τ): obs a dict of `prefix` (B, PREFIX, TOKEN), cached tokens, and `state` (B, STATE); x
and u (B, H, A); τ (B,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

TOKEN, PREFIX, STATE = 16, 3, 4
"""Width of a cached token, their number, numbers of the state."""
Observation = dict[str, Tensor]
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.GELU, nn.SiLU, nn.Tanh, nn.Mish)


class Clock(nn.Module):
    """Sinusoids of the time, or itself."""

    def __init__(self, width: int, raw: bool) -> None:
        super().__init__()
        self.raw, self.dense = raw, nn.Linear(1 if raw else 8, width)

    def forward(self, time: Tensor) -> Tensor:
        """(B, width)."""
        t = time[:, None]
        angles = t * torch.tensor([1.0, 3.0, 10.0, 30.0], dtype=t.dtype)
        y: Tensor = self.dense(t if self.raw else torch.cat([angles.sin(), angles.cos()], 1))
        return y


class Family(nn.Module):
    """horizon H, action_dim A, width a multiple of 4, act(), raw: time as it is."""

    def __init__(
        self, horizon: int, action_dim: int, width: int, act: Callable[[], nn.Module], raw: bool
    ) -> None:
        super().__init__()
        self.size, self.width, self.act, self.raw = horizon * action_dim, width, act(), raw
        self.clock = Clock(width, raw)
        self.build(action_dim)

    def build(self, action_dim: int) -> None:
        """The family's own layers."""
        raise NotImplementedError


class Mlp(Family):
    """An MLP of the flat chunk, LayerNorm after the activation or before it."""

    def build(self, action_dim: int) -> None:
        """Two hidden layers."""
        norm, width = nn.LayerNorm(self.width), self.width
        middle = (self.act, norm) if self.raw else (norm, self.act)
        self.net = nn.Sequential(
            nn.Linear(self.size + STATE + width, width), *middle, nn.Linear(width, width), self.act,
            nn.Linear(width, self.size),
        )  # fmt: skip

    def forward(self, obs: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """u."""
        beside = [x.flatten(1), obs["state"], self.clock(tau)]
        y: Tensor = self.net(torch.cat(beside, 1)).view_as(x)
        return y


class Transformer(Family):
    """Tokens of the chunk attend to each other and to the cached prefix."""

    def build(self, action_dim: int) -> None:
        """Two layers."""
        self.inner, self.seen = nn.Linear(action_dim, self.width), nn.Linear(TOKEN, self.width)
        layer = nn.TransformerEncoderLayer(
            self.width, 2, 2 * self.width, 0.0, self.act, batch_first=True, norm_first=self.raw
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outer = nn.Linear(self.width, action_dim)

    def forward(self, obs: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """u."""
        tokens = self.inner(x) + self.clock(tau)[:, None]
        seen: Tensor = self.body(torch.cat([self.seen(obs["prefix"]), tokens], dim=1))
        y: Tensor = self.outer(seen[:, PREFIX:])
        return y


class UNet(Family):
    """Convolutions over the steps of the chunk, down and up, with GroupNorm."""

    def build(self, action_dim: int) -> None:
        """One level."""
        width, self.seen = self.width, nn.Linear(STATE, self.width)
        self.down, self.norm = nn.Conv1d(action_dim, width, 3, 1, 1), nn.GroupNorm(4, width)
        self.strided = nn.Conv1d(width, width, 3, 2, 1)
        self.up = nn.ConvTranspose1d(width, width, 4, 2, 1)
        self.outer = nn.Conv1d(2 * width, action_dim, 1)

    def forward(self, obs: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """u."""
        first = self.act(self.norm(self.down(x.transpose(1, 2))))
        beside = (self.clock(tau) + self.seen(obs["state"]))[:, :, None]
        coarse = self.up(self.act(self.strided(first) + beside))[:, :, : x.shape[1]]
        y: Tensor = self.outer(torch.cat([first, coarse], 1)).transpose(1, 2)
        return y


class Film(Family):
    """Residual blocks, scaled and shifted by time and state."""

    def build(self, action_dim: int) -> None:
        """Three blocks."""
        width = self.width
        self.inner, self.outer = nn.Linear(self.size, width), nn.Linear(width, self.size)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.film = nn.Linear(width + STATE, 6 * width)

    def forward(self, obs: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """u."""
        h = self.inner(x.flatten(1))
        told = self.film(torch.cat([self.clock(tau), obs["state"]], 1)).chunk(6, 1)
        for i, block in enumerate(self.blocks):
            h = h + self.act(block(h) * (1 + told[2 * i]) + told[2 * i + 1])
        y: Tensor = self.outer(h).view_as(x)
        return y


FAMILIES: dict[str, type[Family]] = {
    "transformer": Transformer, "MLP": Mlp, "temporal U-Net": UNet, "FiLM": Film,
}  # fmt: skip


def drawn(family: str, seed: int, horizon: int, action_dim: int) -> Family:
    """A network of the family, float32, in eval mode: its width, activation, time and weights."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(1 << 30)))
    width, act = 4 * int(rng.integers(3, 9)), ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
    return FAMILIES[family](horizon, action_dim, width, act, bool(rng.integers(2))).eval()


def observations(rows: int) -> Observation:
    """Standard normal ones."""
    return {"prefix": torch.randn(rows, PREFIX, TOKEN), "state": torch.randn(rows, STATE)}
