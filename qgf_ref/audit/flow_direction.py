"""Whether a field points and counts time as its convention says: seen where its input is noise.

A trained field's v = E[action − noise | a_t] is E[action] − a at t = 0: along −a, by −1 times its
length, whatever was learned. Turned round, in sign or in time, the same is seen with the other sign
or at the other end. An untrained network shows none of it, which proves nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow

NUMBERS, MOST_CALLS = 64, 8
"""Numbers of an action over which v is correlated with it at each end (1/8 is chance), and calls
at most: rows are drawn again, so that a batch keeps its shape."""
CLEAR = 0.8
"""Correlation that no untrained network has by chance; trained ones measured: −0.96 at t = 0."""
GROWS = 1.3
"""A trained field's slope grows towards the action, as 1/(1 − t) far from its data (2 measured at
t = 0.9): x + f(x), whose slope is 1 at either end, is told from it."""


class Direction(NamedTuple):
    """Correlation and slope of v on a standard normal a, at the first and at the last step.

    last: t of that; numbers: of how many coordinates
    """

    correlation: tuple[float, float]
    slope: tuple[float, float]
    last: float
    numbers: int

    @property
    def contrary(self) -> str:
        """What is turned round, for certain; "" where nothing is, or nothing can be said."""
        (c0, c1), (s0, s1) = self.correlation, self.slope
        if self.numbers < NUMBERS // 2 or not np.isfinite([c0, c1]).all():
            return ""
        of_length_one = 0.5 <= abs(s1) <= 2
        if c0 >= CLEAR and s1 >= GROWS * s0:
            return "its sign is turned round (u = noise − action, given as action − noise?)"
        if c1 <= -CLEAR and c0 > -0.5 and of_length_one:
            return "its time is turned round (t = 1 is noise, given as t = 0?)"
        if c1 >= CLEAR and abs(c0) < 0.5 and of_length_one:
            return "its sign and its time are turned round (another convention?)"
        return ""

    def __str__(self) -> str:
        c0, c1 = self.correlation
        return (
            f"v goes along a by {c0:+.2f} at t = 0 and by {c1:+.2f} at t = {self.last:.2g} "
            "(correlation; of a trained field −0.7 and less at t = 0)"
        )


def flow_direction(flow: GuidedFlow, obs: Array, seed: int = 0) -> Direction:
    """At standard normal actions, a few calls at either end."""
    rng, shape = np.random.default_rng((seed, 9)), (len(obs), flow.field.action_dim)
    draws = min(MOST_CALLS, -(-NUMBERS // (shape[0] * shape[1])))
    actions = [rng.standard_normal(shape).astype(flow.field.dtype) for _ in range(draws)]
    a = np.concatenate(actions).astype(float)
    ends = []
    for time in (flow.times[0], flow.times[-1]):
        v = np.concatenate([flow.field.forward(obs, x, time)[0] for x in actions]).astype(float)
        along, lengths = (a * v).sum(), (a**2).sum()
        size = np.sqrt(lengths * (v**2).sum())
        ends.append((float(along / size) if size else 0.0, float(along / lengths)))
    (c0, s0), (c1, s1) = ends
    return Direction((c0, c1), (s0, s1), flow.times[-1], a.size)
