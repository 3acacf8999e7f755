"""Reduction of a critic ensemble to one value for each row."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import unknown_name
from qgf_ref.ops import row_numbers

Ties = Literal["split", "first"]

AGGREGATIONS = ("min", "mean")
"""Those without a number of their own; the third is "lcb=K", `lower_bound`."""
WRITTEN = (*AGGREGATIONS, "lcb=K")


class EnsembleCache(NamedTuple):
    """What `ensemble_reduce` saves: the derivative of the result in each member, (E, B)."""

    weight: Array


def lower_bound(name: str) -> float | None:
    """K of "lcb=K", a number > 0: mean − K·std over the members; None of any other text."""
    word, _, number = name.partition("=") if isinstance(name, str) else ("", "", "")
    try:
        value = float(number) if word == "lcb" else 0.0
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def require_aggregation(name: str) -> None:
    """Raise InputError, listing the valid names, unless `name` is an aggregation."""
    if name not in AGGREGATIONS and lower_bound(name) is None:
        raise unknown_name("aggregation", name, WRITTEN)


def ensemble_reduce(
    q: Array, aggregation: str = "min", ties: Ties = "split"
) -> tuple[Array, EnsembleCache]:
    """min, mean or a lower confidence bound over the members.

    q (E, B) → (B,). A complex q is compared by its real part.
    "lcb=K": m − Kσ with m the mean and σ² = mean_e (q_e − m)², over E (PyTorch's std divides by
          E − 1). Of two members K = 1 is their minimum. Where all agree the derivative is the
          mean's. Source: EDAC's and PBRL's bounds, arXiv 2110.01548, 2202.11566.
    ties  who gets the derivative when several members attain the minimum: "split" divides it
          equally among them (jax.numpy.min: official.md, section 5); "first" gives it to the
          first of them.

    jvp   y_dot = Σ_e ω_e q_dot_e;  vjp   q_bar_e = ω_e·y_bar
    with ω_e = 1/E (mean), 1/E − K(q_e − m)/(Eσ), or the share of member e in the minimum.
    """
    require_aggregation(aggregation)
    members, deviations = q.shape[0], lower_bound(aggregation)
    if deviations is not None:
        mean = q.mean(axis=0)
        apart = q - mean
        spread = np.sqrt((apart * apart).mean(axis=0))
        slope = row_numbers.divided(deviations / members * apart, spread, 0 * apart)
        return mean - deviations * spread, EnsembleCache(1 / members - slope)
    if aggregation == "mean":
        return q.mean(axis=0), EnsembleCache(np.full(q.shape, 1 / members, q.real.dtype))
    attains = q.real == q.real.min(axis=0)
    if ties == "first":
        attains &= np.cumsum(attains, axis=0) == 1
    elif ties != "split":
        raise unknown_name("tie rule", ties, ("split", "first"))
    count = np.broadcast_to(attains.sum(axis=0), q.shape)
    unknown = np.full(q.shape, np.nan)  # of a NaN among the members, no derivative is known
    weight = np.divide(attains, count, out=unknown, where=count > 0).astype(q.real.dtype)
    first = q.real.argmin(axis=0)
    return np.take_along_axis(q, first[None], axis=0)[0], EnsembleCache(weight)


def ensemble_reduce_jvp(q_dot: Array, cache: EnsembleCache) -> Array:
    """y_dot (B,) = Σ_e ω_e q_dot_e."""
    return (cache.weight * q_dot).sum(axis=0)


def ensemble_reduce_vjp(y_bar: Array, cache: EnsembleCache) -> Array:
    """q_bar (E, B): q_bar_e = ω_e·y_bar."""
    return cache.weight * y_bar
