"""Real-time chunking: a chunk that goes on from the one being executed, as guidance by a critic.

Its guidance is that of Q(a) = −½‖√W(y − a)‖², with y what is left of the chunk before and W how
much each number of it still binds: any estimator takes it, on a flow that `prefix_flow` makes.

    qgf_jacobian_unmasked+schedule=rtc,5   G = J₀ᵀW(y − â₁): arXiv 2506.07339, equations 2 to 4,
        and its code (realtime_action in src/model.py of Physical-Intelligence/
        real-time-chunking-kinetix, read at helper2424's copy, 1a6b1f9)
    qgf+schedule=rtc,10                    G = W(y − â₁): lerobot (RTCProcessor.denoise_step in
        src/lerobot/policies/rtc/modeling_rtc.py at 7427f31). There autograd is asked for the
        Jacobian, but v was computed before x_t requires a gradient, so that ∂v/∂x_t is left out

with weight 1 in both. How far each is from the law of the chunks that go on from y:
`qgf-ref study prefix`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.velocity import FieldAround

Decay = Literal["exp", "linear", "ones", "zeros"]
"""How the weights fall between what is certainly executed and what is not bound at all."""


def prefix_weights(start: int, end: int, horizon: int, decay: Decay = "exp") -> Array:
    """W of each of a chunk's `horizon` actions, (horizon,), float64, in [0, 1].

    1 for the first `start`, which are executed before the new chunk is there (the delay); 0 from
    `end` on, where the chunk before says nothing. Between them, with c from 1 down to 0 (excluded)
    in equal steps: linear c; exp c(e^c − 1)/(e − 1); zeros 0; ones 1. An `end` below `start` comes
    first. Repeat for A dimensions: np.repeat(…, A). Source: arXiv 2506.07339, equation 5;
    get_prefix_weights in both codes named above. Raises InputError on an unknown decay, and unless
    0 ≤ start and 0 ≤ end ≤ horizon.
    """
    if decay not in get_args(Decay):
        raise unknown_name("decay of the prefix", decay, get_args(Decay))
    if not (start >= 0 and 0 <= end <= horizon):
        raise InputError(
            f"prefix weights need 0 ≤ start and 0 ≤ end ≤ horizon, got {start}, {end}, {horizon}"
        )
    start, at = min(start, end), np.arange(horizon)
    c = np.clip((start - 1 - at) / (end - start + 1) + 1, 0, 1)
    falling = {
        "linear": c,
        "exp": c * np.expm1(c) / (math.e - 1),
        "zeros": (at < start).astype(float),
        "ones": np.ones(horizon),
    }
    return np.where(at < end, falling[decay], 0.0)


@dataclass(frozen=True)
class PrefixCritic:
    """Q(s, a) = −½Σ_i W_i(y_i − a_i)², y (D,) the last D columns of each row's observation.

    ∇Q = W(y − a), ∇²Q = −diag W; one member. weights W (D,), in the dtype of the flow.
    """

    weights: Array

    aggregation = "min"

    def forward(self, obs: Array, action: Array) -> tuple[Array, Array]:
        """Q (1, B), and ∇Q (B, D). obs (B, O + D), action (B, D)."""
        apart = obs[:, obs.shape[1] - len(self.weights) :] - action
        pull = self.weights * apart
        return -0.5 * (pull * apart).sum(axis=1)[None], pull

    def jvp(self, action_dot: Array, cache: Array) -> Array:
        """⟨∇Q, action_dot⟩, (1, B)."""
        return np.asarray((cache * action_dot).sum(axis=1))[None]

    def vjp(self, q_bar: Array, cache: Array) -> Array:
        """q_bar·∇Q, (B, D). q_bar (1, B)."""
        return q_bar[0][:, None] * cache

    def hvp(self, action_dot: Array, q_bar: Array, cache: Array) -> Array:
        """−q_bar·W·action_dot, (B, D)."""
        return -q_bar[0][:, None] * self.weights * action_dot


@dataclass(frozen=True)
class FieldBesidePrefix(FieldAround):
    """A velocity field that is asked with the observation alone, without the prefix behind it."""

    @property
    def obs_dim(self) -> int:
        """O + D."""
        return (self.base.obs_dim or 0) + self.action_dim

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """The base's v (B, D). obs (B, O + D)."""
        own = np.ascontiguousarray(obs[:, : obs.shape[1] - self.action_dim])
        return self.base.forward(own, action, time)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """The base's."""
        return self.base.jvp(action_dot, cache)

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """The base's."""
        return self.base.vjp(velocity_bar, cache)


def prefix_flow(
    flow: GuidedFlow, weights: ArrayLike, action_bound: float | None = None
) -> GuidedFlow:
    """The flow guided towards a prefix: observations [s, y], (B, O + D), critic −½‖√W(y − a)‖².

    y (B, D) is the chunk before, shifted to where the new one begins and flattened like an action;
    where W = 0 any number will do. Rows keep their y through best-of-N and any order of rows; an
    adapter's rows are [row number, y]. weights W (D,), `prefix_weights` for a chunk.
    action_bound: None, since neither code above clips; the flow's own critic is not asked.

        both = np.concatenate([obs, y], axis=1)
        flow = qgf_ref.prefix_flow(flow, np.repeat(qgf_ref.prefix_weights(2, 8, 10), A))
        rtc = "qgf_jacobian_unmasked+schedule=rtc,5"
        qgf_ref.sample(flow, both, estimator=rtc, weight=1, rng=0)

    Raises InputError on weights of another shape, negative or not finite.
    """
    found, D = np.asarray(weights), flow.field.action_dim
    if found.shape != (D,) or found.dtype.kind not in "fiub":
        raise InputError(
            f"prefix weights must be one for each of the {D} numbers of an action, ({D},), got "
            f"{found.dtype} of shape {found.shape}; of a chunk (H, A), np.repeat(weights, A)"
        )
    if not np.isfinite(found).all() or (found < 0).any():
        raise InputError("prefix weights must be finite and ≥ 0")
    critic = PrefixCritic(found.astype(flow.field.dtype))
    field = FieldBesidePrefix(flow.field)
    return replace(flow, field=field, critic=critic, action_bound=action_bound)
