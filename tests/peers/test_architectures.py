"""No false alarm: networks as they are published, drawn at random, in three conventions.

Three each of MLPs, transformers, temporal U-Nets and FiLM-conditioned networks; each must fulfil
the contract, and its audit must not call anything broken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref import adapters
from qgf_ref.audit.flow_audit import audit_flow
from qgf_ref.testing import check_flow
from tests.helpers.some import some

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
nn: Any = torch.nn
Module: Any = torch.nn.Module
H, A, O = 4, 3, 5
ACTIVATIONS = (nn.GELU, nn.SiLU, nn.Tanh, nn.Mish)


class Clock(Module):
    """Sinusoids of the time, or itself."""

    def __init__(self, width: int, raw: bool) -> None:
        super().__init__()
        self.raw, self.dense = raw, nn.Linear(1 if raw else 8, width)

    def forward(self, time: Any) -> Any:
        t = time[:, None]
        angles = t * torch.tensor([1.0, 3.0, 10.0, 30.0], dtype=t.dtype)
        return self.dense(t if self.raw else torch.cat([angles.sin(), angles.cos()], 1))


class Dense(Module):
    """An MLP of the flat chunk, LayerNorm before or after the activation or nowhere."""

    def __init__(self, width: int, act: Any, raw: bool) -> None:
        super().__init__()
        self.clock = Clock(width, raw)
        norm = nn.LayerNorm(width) if width % 2 else nn.Identity()
        self.net = nn.Sequential(
            nn.Linear(H * A + O + width, width), norm, act(), nn.Linear(width, width), act(),
            nn.Linear(width, H * A),
        )  # fmt: skip

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        return self.net(torch.cat([x.flatten(1), obs, self.clock(time)], 1)).view_as(x)


class Attending(Module):
    """Tokens of the chunk after one of the observation."""

    def __init__(self, width: int, act: Any, raw: bool) -> None:
        super().__init__()
        width = 4 * (width // 4)
        self.clock, self.inner = Clock(width, raw), nn.Linear(A, width)
        self.seen, self.outer = nn.Linear(O, width), nn.Linear(width, A)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, 0.0, act(), batch_first=True, norm_first=raw
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        tokens = self.inner(x) + self.clock(time)[:, None]
        return self.outer(self.body(torch.cat([self.seen(obs)[:, None], tokens], 1))[:, 1:])


class UNet(Module):
    """Convolutions over the steps of the chunk, down and up, with GroupNorm."""

    def __init__(self, width: int, act: Any, raw: bool) -> None:
        super().__init__()
        width, self.act = 4 * (width // 4), act()
        self.clock = Clock(width, raw)
        self.seen = nn.Linear(O, width)
        self.down = nn.Conv1d(A, width, 3, 1, 1)
        self.norm, self.strided = nn.GroupNorm(4, width), nn.Conv1d(width, width, 3, 2, 1)
        self.up = nn.ConvTranspose1d(width, width, 4, 2, 1)
        self.outer = nn.Conv1d(2 * width, A, 1)

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        first = self.act(self.norm(self.down(x.transpose(1, 2))))
        middle = self.act(self.strided(first) + (self.clock(time) + self.seen(obs))[:, :, None])
        return self.outer(torch.cat([first, self.up(middle)], 1)).transpose(1, 2)


class FiLM(Module):
    """Residual blocks, scaled and shifted by time and observation."""

    def __init__(self, width: int, act: Any, raw: bool) -> None:
        super().__init__()
        self.clock, self.inner = Clock(width, raw), nn.Linear(H * A, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.film = nn.Linear(width + O, 6 * width)
        self.act, self.outer = act(), nn.Linear(width, H * A)

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        h = self.inner(x.flatten(1))
        told = self.film(torch.cat([self.clock(time), obs], 1)).chunk(6, 1)
        for i, block in enumerate(self.blocks):
            h = h + self.act(block(h) * (1 + told[2 * i]) + told[2 * i + 1])
        return self.outer(h).view_as(x)


class Critic(Module):
    """Members of the flat chunk."""

    def __init__(self, width: int, act: Any, members: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(H * A + O, width), nn.LayerNorm(width), act(), nn.Linear(width, members)
        )

    def forward(self, obs: Any, x: Any) -> Any:
        return self.net(torch.cat([x.flatten(1), obs], 1)).T


@pytest.mark.parametrize("number", some(range(3), 1))
@pytest.mark.parametrize("family", [Dense, Attending, UNet, FiLM])
def test_no_false_alarm(family: Any, number: int) -> None:
    rng = np.random.default_rng((number, len(family.__name__)))
    torch.manual_seed(int(rng.integers(1 << 30)))
    width, act = int(rng.integers(9, 33)), ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
    dtype = torch.float64 if number == 0 else torch.float32
    field = family(width, act, bool(rng.integers(2))).to(dtype).eval()
    critic = Critic(width, act, number + 1).to(dtype).eval()
    obs = rng.standard_normal((4, O))
    for convention in ("qgf", "openpi", "gr00t"):
        flow = adapters.torch(
            field, critic, action_shape=(H, A), obs_dim=O, denoise_steps=4, convention=convention,
        )  # fmt: skip
        report = check_flow(flow, obs, seed=number)
        assert len(report.checked) == 17 and not report.unchecked
    found = audit_flow(flow, obs, ["qgf", "qgf_jacobian"], budget=1000, show_progress=False)
    assert found.passed, found.broken
