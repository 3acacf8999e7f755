"""Mistakes of ports in a convention of their own: two conventions mixed, and clamps of their own.

In the core's terms: u is ±v, τ is t or 1 − t, and dt < 0 where τ falls. An adapter says which
convention a flow has; a checkpoint's is the core's, in which x + τ·u is a + t·v
(`query-factor-t`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import Mistake, drift_rule, is_guided, one
from qgf_ref.crosscheck.sampler.mistakes.query import asks_one_step, query
from qgf_ref.crosscheck.sampler.mistakes.update import clamp_of
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.nets.velocity import FieldAround
from qgf_ref.ops.clip import Bound, clip

OF_FLOWS = ("guidance-sign",)
"""Of flows alone: on a checkpoint's final actions it is `gradient-negated`."""

CONVENTION: tuple[Mistake, ...] = (
    Mistake("velocity-sign", "convention", "a",
            "the velocity has the other convention's sign: u = noise − action is followed with "
            "dt < 0, u = action − noise with dt > 0",
            drift_rule(lambda v, g, w, step, flow: -v + w * g)),
    Mistake("guidance-sign", "convention", "a",
            "w·∇Q is added to u = noise − action, whose dt < 0 turns it around: subtract it, "
            "x ← x + dt·(u − w·∇Q)",
            drift_rule(lambda v, g, w, step, flow: v - w * g), is_guided),
    Mistake("query-velocity-sign", "convention", "a1_hat",
            "the one-step estimate has the other convention's sign of u: it is a + (1 − t)·u where "
            "u = action − noise, and x − τ·u where u = noise − action and τ = 1 is noise",
            query(lambda rest, dt: -rest), asks_one_step),
    Mistake("query-other-end", "convention", "a1_hat",
            "the one-step estimate goes to the noise, a − t·v: the time left to the action is "
            "1 − t where t = 0 is noise, and τ where τ = 1 is",
            query(lambda rest, dt: rest - 1), asks_one_step),
)  # fmt: skip
"""Not in the bank, which is of the official convention."""


@dataclass(frozen=True)
class _Clamped(FieldAround):
    """A field that sees its action clamped, and does not know of it."""

    bound: Bound

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """v at the clamped action."""
        return self.base.forward(obs, clip(action, self.bound)[0], time)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """The base's."""
        return self.base.jvp(action_dot, cache)

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """The base's."""
        return self.base.vjp(velocity_bar, cache)


def _inside(v: Array, g: Array, w: Any, step: DenoisingStep, flow: GuidedFlow) -> Array:
    T = flow.denoise_steps
    return (clip(step.action + v / T, clamp_of(flow))[0] - step.action) * T + w * g


def _unbounded(port: Port) -> bool:
    return port.flow.bound is None


def _clamped_to_1(flow: GuidedFlow, action: Array) -> Array:
    return clip(action, 1.0)[0]


CLAMPS: tuple[Mistake, ...] = (
    Mistake("clamp-network-input", "convention", "v",
            "the network is given clip(a_t): only the result is clipped, not what it starts from",
            one(lambda port: port.with_field(lambda v: _Clamped(v, clamp_of(port.flow))))),
    Mistake("clamp-before-guidance", "convention", "a",
            "the Euler step is clipped inside the loop and the guidance added after it: "
            "a_{t+1/T} = a_t + (v + w·g)/T, and the last one alone is clipped",
            drift_rule(_inside), is_guided),
    Mistake("velocity-clamped", "convention", "a",
            "the velocity is clipped to ±1: it goes from noise to the action, often further",
            drift_rule(lambda v, g, w, step, flow: np.clip(v, -1, 1) + w * g)),
    Mistake("final-clip-added", "convention", "action",
            "the result is clipped to ±1: this flow's actions have no bound",
            one(lambda port: port.with_scheme(finish=_clamped_to_1)), _unbounded),
)  # fmt: skip
"""Beside the bank's `clip-every-step`, of every convention."""
