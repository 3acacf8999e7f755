"""Losses on logits, exact where a probability saturates: z is the logit of q = σ(z) ∈ (0, 1).

Each gives L and z_bar = ∂L/∂z; targets and weights are held. Where a weight depends on which side
of its target z lies, it is piecewise constant: the derivative of each branch, none of the jump.
Branches are chosen by real parts. Source: goal_conditioned.md, section 2.
"""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.ops.activations import sigmoid, softplus

CLIPPED = float(np.log1p(-1e-5) - np.log(1e-5))
"""Logit of 1 − 1e-5, 11.5129…: how far targets of a distilled quantile reach. Trap T10: in float32
the official code's bound is itself rounded, to a logit of 11.5116."""


def bce(z: Array, target: Array, weight: Array | float = 1) -> tuple[float, Array]:
    """L = mean of weight·(−y·log σ(z) − (1 − y)·log σ(−z)), z_bar = weight·(σ(z) − y)/size.

    z (…); target y ∈ [0, 1] and weight broadcast against it. Analytic. Both logarithms are
    softplus: L is finite, and exact, however large z is.
    """
    loss = target * softplus(-z) + (1 - target) * softplus(z)
    return (weight * loss).mean(), weight * (sigmoid(z) - target) / z.size


def asymmetric_bce(
    z: Array, target: Array, valid: Array | float, kappa: float
) -> tuple[float, Array]:
    """`bce` weighted by κ where y ≥ σ(z), by 1 − κ elsewhere; its minimiser is the κ-expectile.

    At y = σ(z) the weight is κ (IQL's is the other one: trap T11), z_bar is 0 from both sides, and
    L jumps: there bce is the entropy of y, not 0. κ = ½ halves the plain loss. valid (B,) or ().
    """
    return bce(z, target, valid * _weight(target.real >= sigmoid(z.real), z, kappa))


def logit_pinball(
    z: Array, logit: Array, valid: Array | float, kappa: float, bound: float = np.inf
) -> tuple[float, Array]:
    """L = mean of valid·w·|z − c|, z_bar = valid·w·sign(z − c)/size, c = clip(logit, ±bound).

    w = κ where logit ≥ z, 1 − κ elsewhere, by the logit as it was before the clip: the minimiser is
    the κ-quantile of the logits. The kink z = c: z_bar is 0. The target comes as a logit, and not
    as a probability, whose logit is ∞ from z = 16.64 on in float32 (trap T9).
    """
    gap = z - np.clip(logit, -bound, bound)
    sign = np.sign(gap.real)
    weight = valid * _weight(logit.real >= z.real, z, kappa)
    return (weight * sign * gap).mean(), weight * sign / z.size


def logit_of(probability: Array) -> Array:
    """log q − log(1 − q), ±∞ at 1 and 0."""
    with np.errstate(divide="ignore"):
        logit: Array = np.log(probability) - np.log1p(-probability)
    return logit


def reduced_logit(z: Array, aggregation: str) -> Array:
    """logit of the reduced *probabilities* of the members: z (E, B) → (B,).

    min   the smallest z itself
    mean  log Σ_e σ(z_e) − log Σ_e σ(−z_e): not the mean of the logits (trap T8)
    Raises InputError on another aggregation.
    """
    if aggregation == "min":
        first = z.real.argmin(axis=0)
        return np.take_along_axis(z, first[None], axis=0)[0]
    if aggregation != "mean":
        raise unknown_name("aggregation of probabilities", aggregation, ("min", "mean"))
    return _log_sum(-softplus(-z)) - _log_sum(-softplus(z))


def probability(z: Array) -> tuple[Array, Array]:
    """(q, dq/dz) = (σ(z), σ(z)σ(−z)), (…): both exact in the tails. jvp and vjp multiply by it."""
    q = sigmoid(z)
    return q, q * sigmoid(-z)


def _log_sum(a: Array) -> Array:
    """log Σ_e exp(a_e), over the first axis."""
    top = a.real.max(axis=0)
    return top + np.log(np.exp(a - top).sum(axis=0))


def _weight(above: Array, like: Array, kappa: float) -> Array:
    """κ where the target lies above, 1 − κ elsewhere, in the dtype of `like`."""
    return np.where(above, kappa, 1 - kappa).astype(like.real.dtype)
