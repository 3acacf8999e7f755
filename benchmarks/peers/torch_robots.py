"""Guided robot policies that are no MLPs of ours, in other conventions, and the sampler round them.

A port as somebody writes it round a network of four families (`torch_families`), in the convention
of its training (`CONVENTIONS`): float32, its own times, its own sign of the velocity. It is
`TorchSampler` with other networks: every mistake made between networks there can be made here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.peers.torch_families import Observation, drawn, observations
from benchmarks.peers.torch_mistake import GUIDED, ONE_STEP, Mistake, several_steps
from benchmarks.peers.torch_mistakes import HELD_OUT as HELD_OUT_OF_MLPS
from benchmarks.peers.torch_mistakes_gradient import AGGREGATION, GRADIENT, of_gradient
from benchmarks.peers.torch_mistakes_sampler import BEST_OF, GRID, QUERY, UPDATE, advance
from benchmarks.peers.torch_sampler import ESTIMATORS, Step, TorchSampler
from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow

ROWS = 8
"""Observations of a robot."""


class Value(nn.Module):
    """One member of the critic."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(16), nn.SiLU(), nn.LazyLinear(1))

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """(B,)."""
        y: Tensor = self.net(torch.cat([state, x.flatten(1)], 1))[:, 0]
        return y


def _accumulated(k: int, T: int) -> np.float32:
    """1 − τ_k of τ ← τ + fl(−1/T) from 1."""
    tau = np.float32(1)
    for _ in range(k):
        tau = np.float32(tau + np.float32(-1 / T))
    return np.float32(1 - tau)


@dataclass(frozen=True)
class Told:
    """A port's convention: its t at step k, what its network is told of t, v = sign·u."""

    time: Callable[[int, int], Any]
    told: Callable[[Tensor], Tensor]
    sign: int


CONVENTIONS = {
    "openpi": Told(_accumulated, lambda t: 1 - t, -1),
    "gr00t": Told(lambda k, T: k / T, lambda t: torch.floor(t.double() * 1000 + 1e-6).float(), 1),
    "flow_matching": Told(lambda k, T: np.float32(k) * np.float32(1 / T), lambda t: t, 1),
}


class Robot:
    """Networks of one family, their observations, and what a mistake asks of a checkpoint."""

    def __init__(
        self, family: str, convention: str, seed: int, *, horizon: int = 3, action_dim: int = 2,
        members: int = 2, aggregation: str = "min", steps: int = 4,
    ) -> None:  # fmt: skip
        self.convention, self.horizon, self.action_dim = convention, horizon, action_dim
        self.flat_action_dim, self.obs_dim = horizon * action_dim, 1
        self.options = SimpleNamespace(denoise_steps=steps, q_aggregation=aggregation)
        self.target_critic = SimpleNamespace(ensemble=members)
        self.policy = drawn(family, seed, horizon, action_dim)
        self.observations = observations(ROWS)
        self.members = nn.ModuleList(Value() for _ in range(members)).eval()
        x = torch.randn(ROWS, horizon, action_dim)
        for member in self.members:  # so that the least changes by row
            q = member(self.observations["state"], x)
            member.net[2].bias.data -= q.mean()
        self.source = f"{family}, {convention}, {seed}"

    def flow(self) -> GuidedFlow:
        """The adapter round the same networks in float64."""
        policy, members = deepcopy(self.policy).double(), deepcopy(self.members).double()
        obs = {name: x.double() for name, x in self.observations.items()}

        def critic(obs: Observation, x: Tensor) -> Tensor:
            return torch.stack([member(obs["state"], x) for member in members])

        return adapters.torch(
            policy, critic, action_shape=(self.horizon, self.action_dim), observations=obs,
            convention=self.convention, denoise_steps=self.options.denoise_steps,
            aggregation=self.options.q_aggregation,
        )  # fmt: skip


class RobotPort(TorchSampler):
    """The sampler round a robot's networks. Observations are numbers of rows (B, 1)."""

    def __init__(self, robot: Robot, *, estimator: str = "qgf") -> None:
        self.robot, self.estimator = robot, estimator
        self.aggregation, self.T = robot.options.q_aggregation, robot.options.denoise_steps
        self.horizon, self.told = robot.horizon, CONVENTIONS[robot.convention]
        self.target = self.online = self.guiding = self.ranking = robot.members

    def _of(self, obs: Tensor) -> Observation:
        rows = obs[:, 0].long()
        return {name: x[rows] for name, x in self.robot.observations.items()}

    def time(self, k: int) -> Tensor:
        """t, as the port rounds it."""
        return torch.tensor(self.told.time(k, self.T), dtype=torch.float32)

    def policy(self, obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        """v = ±u(obs, a, τ), (B, D)."""
        tau = self.told.told(t).expand(len(a))
        x = a.reshape(len(a), self.robot.horizon, -1)
        # PyTorch's fused attention on CPUs has no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            u: Tensor = self.robot.policy(self._of(obs), x, tau)
        return self.told.sign * u.flatten(1)

    def members(self, critics: Any, obs: Tensor, a: Tensor) -> Tensor:
        """Q_e, (E, B)."""
        state = self._of(obs)["state"]
        return torch.stack([member(state, a) for member in critics])

    def trace(self, obs: Array, noise: Array, weight: float) -> dict[str, Array]:
        """As the port records it: v is u."""
        found = super().trace(obs, noise, weight)
        return {**found, "v": self.told.sign * found["v"]}


def _one_step(f: Callable[[Any, Step], Tensor]) -> Mistake:
    return Mistake({"one_step": f}, estimators=ONE_STEP)


MIXED = {
    "velocity-sign": advance(lambda self, s, x, g: s.a + (-s.v + s.w * g) / self.T, ESTIMATORS),
    "guidance-sign": advance(lambda self, s, x, g: s.a + (s.v - s.w * g) / self.T),
    "query-velocity-sign": _one_step(lambda self, s: self.clip(s.a - (1 - s.t) * s.v)),
    "query-other-end": _one_step(lambda self, s: self.clip(s.a - s.t * s.v)),
}
"""Mistakes of two conventions mixed."""
CLAMPS = {
    "clamp-network-input": Mistake(
        {"policy": lambda self, obs, a, t: RobotPort.policy(self, obs, self.clip(a), t)}
    ),
    "clamp-before-guidance": advance(
        lambda self, s, x, g: self.clip(s.a + s.v / self.T) + s.w * g / self.T
    ),
    "velocity-clamped": advance(
        lambda self, s, x, g: s.a + (s.v.clamp(-1, 1) + s.w * g) / self.T, ESTIMATORS
    ),
}
"""Clamps along the chain."""
_INSIDE = ("gradient-of-observation", "critic-online", "best-of-online", "chunk-action-major")
MISTAKES = {
    name: mistake
    for name, mistake in {**GRID, **QUERY, **GRADIENT, **AGGREGATION, **UPDATE, **BEST_OF}.items()
    if name not in _INSIDE
} | MIXED | CLAMPS | {"chunk-action-major": UPDATE["chunk-action-major"]}  # fmt: skip
"""Every mistake between networks, by name."""

_KEPT = ("unknown-gradient-softmin", "unknown-gradient-momentum", "unknown-query-clip-0.9",
         "unknown-heun", "unknown-weight-schedule", "unknown-final-tanh")  # fmt: skip


def _every_second(self: TorchSampler, s: Step, x: Tensor, g: Tensor) -> Tensor:
    return s.a + (s.v + (s.w * g if s.k % 2 == 0 else 0 * g)) / self.T


HELD_OUT = {name: HELD_OUT_OF_MLPS[name] for name in _KEPT} | {
    "unknown-guidance-every-second-step": advance(_every_second, GUIDED, several_steps),
    "unknown-gradient-tanh": of_gradient(lambda self, s, g: torch.tanh(3 * g)),
    "unknown-velocity-times-1.1": Mistake(
        {"policy": lambda self, obs, a, t: (1 + 0.1 * t) * RobotPort.policy(self, obs, a, t)}
    ),
    "unknown-query-halfway": _one_step(lambda self, s: self.clip(s.a + 0.5 * (1 - s.t) * s.v)),
}  # fmt: skip
"""Mistakes that the bank lacks."""
FIRST_WRONG = {
    "unknown-gradient-softmin": "g", "unknown-gradient-momentum": "g",
    "unknown-query-clip-0.9": "a1_hat", "unknown-heun": "a", "unknown-weight-schedule": "a",
    "unknown-final-tanh": "action", "unknown-guidance-every-second-step": "a",
    "unknown-gradient-tanh": "g", "unknown-velocity-times-1.1": "v",
    "unknown-query-halfway": "a1_hat",
}  # fmt: skip
"""The first quantity that is wrong, of those that the bank lacks."""


NOT_SHOWN = {
    # ties of members and of candidates, which nothing brings about in networks that are not ours
    "traces": ("ties-first", "best-of-last"),
    # and 1e-5 of the query point moves actions by less than rounding explains
    "final actions alone": ("ties-first", "best-of-last", "query-clip-inside"),
}
"""Mistakes that the inputs of `check_sampler` cannot show."""


def aggregation_for(mistake: str) -> str:
    """With which the mistake is one."""
    return "mean" if mistake == "ensemble-min" else "min"


def broken_port(robot: Robot, mistake: str, estimator: str = "qgf") -> RobotPort:
    """The port with one mistake of `MISTAKES` or `HELD_OUT` made in it."""
    made = (MISTAKES | HELD_OUT)[mistake]
    cls: type[RobotPort] = type("Broken", (RobotPort,), dict(made.methods))
    return cls(robot, estimator=estimator)
