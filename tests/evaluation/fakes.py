"""A tiny environment whose optimum is known, and checkpoints that fit it.

A point on a line starts at x₀ ∈ {0, 0.1, 0.2, 0.3} (by seed), moves by 0.25·a a step, costs 1 a
step and 0 when it arrives at 1. Full speed is the optimum: ceil((1 − x₀)/0.25) steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.rollouts import Episode, Policy
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from tests.conftest import small_checkpoint

LIMIT = 12


class Line:
    """The environment. It remembers x only, so no episode depends on the one before."""

    observation_space = SimpleNamespace(shape=(5,))
    action_space = SimpleNamespace(shape=(1,), seed=lambda seed: None)

    def __init__(self, success_key: str = "success") -> None:
        self.x, self.t, self.key = 0.0, 0, success_key
        self.closed = False

    @property
    def unwrapped(self) -> Line:
        return self

    def reset(self, *, seed: int) -> tuple[Array, dict[str, Any]]:
        self.x, self.t = 0.1 * (seed % 4), 0
        return self._obs(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.x += 0.25 * float(np.clip(action, -1, 1)[0])
        self.t += 1
        there = self.x >= 1 - 1e-9
        return self._obs(), float(there) - 1, there, self.t >= LIMIT, {self.key: float(there)}

    def render(self) -> Array:
        return np.full((8, 8, 3), min(int(200 * abs(self.x)), 255), dtype=np.uint8)

    def close(self) -> None:
        self.closed = True

    def _obs(self) -> Array:
        return np.array([self.x, self.t / LIMIT, 0.0, 0.0, 1.0])


class Deadly(Line):
    """Ends its process, or raises, at the first step of seed 3."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.seed = kind, 0

    def reset(self, *, seed: int) -> tuple[Array, dict[str, Any]]:
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        if self.seed == 3 and self.kind == "exits":
            os._exit(7)
        if self.seed == 3 and self.kind == "raises":
            raise RuntimeError("the simulation blew up")
        if self.seed == 3 and self.kind == "interrupts":
            raise KeyboardInterrupt
        return super().step(action)


@dataclass(frozen=True)
class LineTask:
    name: str = "line"
    kind: str = ""

    def make_env(self, **options: Any) -> Any:
        assert set(options) <= {"render_mode"}
        return Deadly(self.kind) if self.kind else Line()


@dataclass(frozen=True)
class Constant(Policy):
    """Chunks of three equal actions; predicts Q = −7."""

    action: float = 1.0

    def act(self, obs: Array, noise: Array) -> tuple[Array, Array]:
        return np.full((len(obs), 3), self.action), np.full(len(obs), -7.0)


def constant(action: float, discount: float = 0.9) -> Constant:
    return Constant(line_checkpoint(), Method(), None, discount, action=action)


def line_checkpoint(seed: int = 0, dtype: str = "float32") -> Checkpoint:
    """Random networks for chunks of three actions on the line."""
    checkpoint = small_checkpoint(seed, dtype=dtype)
    return replace(checkpoint, options=replace(checkpoint.options, horizon_length=3))


def episode(
    q: list[float], realised: list[float | None], *, terminated: bool = True, seed: int = 0
) -> Episode:
    """An episode of these predictions and returns."""
    steps = tuple(range(len(q)))
    observed = tuple(0.0 if g is None else g for g in realised)
    return Episode(
        seed, terminated, -1.0, len(q), terminated, steps, tuple(q), tuple(realised), observed
    )


def nudge(flow: GuidedFlow, step: DenoisingStep) -> Array:
    """An estimator of a user's, in a module that workers can import."""
    return -step.action
