"""Mistakes of ports in a convention of their own: two conventions mixed.

They are tried of flows alone, whose adapters say which convention theirs is. In the core's terms:
u is ±v, τ is t or 1 − t, and dt < 0 where τ falls.
"""

from __future__ import annotations

from qgf_ref.crosscheck.sampler.mistakes.base import Mistake, drift_rule, is_guided
from qgf_ref.crosscheck.sampler.mistakes.query import asks_one_step, query

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
