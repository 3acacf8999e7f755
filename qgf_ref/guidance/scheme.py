"""What a sampler does around its networks, each piece replaceable: Algorithm 1 is the default.

The loop itself is in `qgf_ref.denoising`. The cross-check replaces single pieces to simulate the
mistakes that ports make; nothing else should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.queries import bounded, critic_gradient, critic_value
from qgf_ref.ops.structure import axpy


def unchanged(x: Array) -> Array:
    """x."""
    return x


def one_after_another(obs: Array, best_of: int) -> Array:
    """(B, O) → (B·n, O): every observation n times in a row."""
    return np.repeat(obs, best_of, axis=0)


def guided_drift(flow: GuidedFlow, step: DenoisingStep, gradient: Array) -> Array:
    """v + w·G, which the Euler step multiplies by 1/T."""
    return flow.kernels(axpy, step.weight, gradient, step.velocity)


def clipped(flow: GuidedFlow, action: Array) -> Array:
    """The last state, clipped to the flow's action bound."""
    return bounded(flow, action).x


def target_value(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
    """What best-of-N ranks by, (B·n,): the aggregated critic at the clipped action."""
    return critic_value(flow, obs, action)


def uphill(flow: GuidedFlow, obs: Array, action: Array) -> Array:
    """∇Q(s, a) (B·n, D), along which a gradient step goes."""
    return critic_gradient(flow, obs, action).gradient


def first_best(q: Array) -> Array:
    """The candidate with the highest value, the first among equals. q (B, n) → (B,)."""
    return q.argmax(axis=1)


@dataclass(frozen=True)
class Scheme:
    """The pieces of Algorithm 1 and of best-of-N, in the order in which they act.

    start    noise (B·n, D) → a_0
    spread   obs (B, O), n → (B·n, O)
    drift    flow, step, G → what the Euler step multiplies by 1/T
    finish   flow, a_1 → the action
    uphill   flow, obs, action → the gradient of a gradient step, if there are any
    confine  flow, action → the action after a gradient step
    rank     flow, obs, a_1, action → the value of every candidate (B·n,)
    choose   values (B, n) → index of the chosen candidate (B,)
    deliver  the chosen actions (B, D) → what the caller gets
    Source: method.md, sections 2 and 4; official.md, section 5.
    """

    start: Callable[[Array], Array] = unchanged
    spread: Callable[[Array, int], Array] = one_after_another
    drift: Callable[[GuidedFlow, DenoisingStep, Array], Array] = guided_drift
    finish: Callable[[GuidedFlow, Array], Array] = clipped
    uphill: Callable[[GuidedFlow, Array, Array], Array] = uphill
    confine: Callable[[GuidedFlow, Array], Array] = clipped
    rank: Callable[[GuidedFlow, Array, Array, Array], Array] = target_value
    choose: Callable[[Array], Array] = first_best
    deliver: Callable[[Array], Array] = unchanged


ALGORITHM_1 = Scheme()
