"""A quick look at a candidate mistake: a few rows of one case, one simulation, no replicas."""

from __future__ import annotations

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.bank import (
    Made,
    Mistakes,
    candidates,
    first_quantity,
    order,
)
from qgf_ref.crosscheck.sampler.mistakes.base import offset_variant, value_variant
from qgf_ref.crosscheck.sampler.mistakes.convention import CONVENTION
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.crosscheck.sampler.rounding import by_step, norms
from qgf_ref.crosscheck.sampler.simulations import COARSE, Simulations
from qgf_ref.errors import InputError
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.ops.time_embedding import DIM

SCREEN_ROWS = 8
SCREEN = 100.0
"""A simulation further from theirs than this many times the rounding is not looked at closely."""
FIT_REACH, FIT_NUMBERS, FIT_SWEEPS, MOST_UNITS = 0.05, 5, 20, 8
"""Offsets of frequencies are fitted to an error below this share, to so many numbers for each at
least, in so many rounds, and up to so many units.
"""
VALUE_STEPS, VALUE_SHIFT, VANISHING = 10, 1e-3, 1e-4
"""Gauss–Newton steps to a mistake's value, the change in it that tells the slope, and the share of
the gradient's length below which a value is none.
"""


class Screen:
    """A quick look at a few rows of the case that says most about one quantity."""

    def __init__(self, search: Simulations, base: Mistakes, quantity: str) -> None:
        self.search, self.base, self.quantity = search, base, quantity
        self.index = search.worst_case(base, quantity)
        self.case = search.cases[self.index]
        self.scatter = search.scatter(self.index, base)
        self.rows = self._telling_rows()
        self.upto = "v" if quantity == "v" and self.case.forced else "action"
        self.truth = self._cut(self.scatter.truth[quantity], quantity)
        self.theirs = self._cut(self.case.theirs[quantity], quantity)
        self.missing = self.theirs - self.truth
        self.effects: dict[Made, Array] = {}
        self.compatible: set[Made] = set()
        earlier = [n for n in CAUSAL[: order(quantity)] if n in self.case.theirs]
        self.earlier = {n: self._cut(self.scatter.truth[n], n) for n in earlier}

    def additions(self, named: set[str]) -> list[Made]:
        """The mistakes that can show in this quantity, less those already assumed.

        From their states, only what arises up to it can; in a free run, whatever came before. Of
        somebody's networks, whose calls may end before the bank does, what mixes conventions comes
        first there.
        """
        port = self.search.setting.port()
        additions = [
            made
            for made in candidates(port, self.case.best_of)
            if made.name not in named
            and (not self.case.forced or first_quantity(made) <= order(self.quantity))
        ]
        first = {m.name for m in CONVENTION} if port.opaque and not self.case.forced else set()
        return sorted(additions, key=lambda made: made.name not in first)

    def cost(self, more: Mistakes) -> float:
        """What simulating these takes, in units of one simulation of the telling rows."""
        coupled = any(item.mistake.coupled for item in (*self.base, *more))
        return len(self.case.inputs.obs) / len(self.rows) if coupled else 1.0

    def passes(self, more: Mistakes) -> bool:
        """Whether base and these mistakes come near what was recorded."""
        made = (*self.base, *more)
        coupled = any(item.mistake.coupled for item in made)
        rows = None if coupled else self.rows
        port = self.search.setting.port(made)
        try:
            if self._ruled_out_by_v(port, more) or self._ruled_out_by_a_step(port, more, rows):
                return False
            simulated = whole = self.case.simulate(port, rows, self.upto)
        except InputError:
            # somebody's function lacks a product, or raised at a time that their sampler never
            # asks at: what they recorded came from a run that ended
            return False
        if coupled:
            simulated = {name: self._cut(value, name) for name, value in simulated.items()}
        value = simulated[self.quantity]
        if value.shape != self.theirs.shape:
            return False
        if len(more) == 1:
            self.effects[more[0]] = value - self.truth
            if all(self._near(n, before, simulated[n]) for n, before in self.earlier.items()):
                self.compatible.add(more[0])
        if any(item.mistake.coarse for item in made):
            left, total = (float(np.linalg.norm(x)) for x in (self.theirs - value, self.missing))
            return left <= COARSE * total
        if not self._near(self.quantity, self.theirs, value):
            return False
        # one run of all rows before the several that the verdict takes
        if not coupled and len(self.rows) < len(self.case.inputs.obs):
            whole = self.case.simulate(port, None, self.upto)
        expected, kept = self.case.theirs[self.quantity], self.scatter.rows(self.quantity)
        return self._near(self.quantity, expected, whole[self.quantity], kept)

    def _ruled_out_by_v(self, port: Port, more: Mistakes) -> bool:
        """Whether one mistake more changes the v that base explains, so that nothing which comes
        after it need be simulated. What rounds, or has offsets to be fitted, may come back to it.
        """
        if "v" not in self.earlier or not self.case.forced or port.opaque or len(more) > 1:
            return False
        if any(x.mistake.coarse or x.mistake.coupled for x in (*self.base, *more)):
            return False
        if more[0].mistake.family is not None or first_quantity(more[0]) > order("v"):
            return False
        v = self.case.simulate(port, self.rows, "v")["v"]
        return not self._near("v", self.earlier["v"], v)

    def _ruled_out_by_a_step(self, port: Port, more: Mistakes, rows: Array | None) -> bool:
        """Whether a pair is off at the step that base misses most. Of a pair nothing else is asked,
        and from known states every step is simulated by itself.
        """
        if len(more) < 2 or not self.case.forced or port.opaque:
            return False
        if self.quantity in ("a", "action") or any(x.mistake.coarse for x in (*self.base, *more)):
            return False
        off = (by_step(self.quantity, self.missing) ** 2).sum(axis=(1, 2))
        noise = self.scatter.typical(self.quantity)
        step = int(np.argmax(off / np.maximum(noise, 1e-30) ** 2))
        value = self.case.simulate(port, rows, self.upto, only=step)[self.quantity]
        if rows is None:
            value = self._cut(value, self.quantity)
        if value.shape != self.theirs.shape:
            return False
        return not self._within(self.quantity, self.theirs, value)[step]

    def fitted(self, made: Made) -> Made | None:
        """This mistake with the frequencies' offsets that fit best, or None if none are needed.

        Rounded angles jump, so that the change by every offset of every frequency is simulated;
        being small the changes add up, and are chosen one frequency after another until none
        improves.
        """
        effect = self.effects.get(made)
        if made.mistake.family is None or effect is None or not np.isfinite(effect).all():
            return None
        if np.abs(self.missing - effect).max() > FIT_REACH * max(1.0, np.abs(self.truth).max()):
            return None
        half = DIM // 2
        if self.theirs.size < FIT_NUMBERS * half:
            return None
        start = self._with_offsets(made, [0] * half)
        changes = np.zeros((half, 2 * MOST_UNITS + 1, start.size))
        # the first frequency is exp(0) = 1 however it is computed
        for i in range(1, half):
            for units in (*range(-MOST_UNITS, 0), *range(1, MOST_UNITS + 1)):
                offsets = [units if j == i else 0 for j in range(half)]
                changes[i, units + MOST_UNITS] = self._with_offsets(made, offsets) - start
        left = self.theirs.ravel() - start
        chosen = np.full(half, MOST_UNITS)
        # all rows share the embedding's own rounding: an offset must be worth more than that
        noise = float((self.scatter.typical(self.quantity) ** 2).mean()) * start.size
        price = np.full(2 * MOST_UNITS + 1, noise)
        price[MOST_UNITS] = 0
        for _ in range(FIT_SWEEPS):
            before = chosen.copy()
            for i in range(1, half):
                without = left + changes[i, chosen[i]]
                cost = ((without - changes[i]) ** 2).sum(axis=1) + price
                chosen[i] = int(cost.argmin())
                left = without - changes[i, chosen[i]]
            if (before == chosen).all():
                break
        if (chosen == MOST_UNITS).all():
            return None
        return Made(made.name, offset_variant(tuple(int(n) - MOST_UNITS for n in chosen)))

    def fitted_value(self, made: Made) -> Made | None:
        """This mistake at the value that fits best, by Gauss–Newton in its logarithm.

        None where that leaves nothing of the gradient: any such mistake is then no guidance. It
        starts at the best of some lengths of the gradient, which all such values are like.
        """
        norms = np.linalg.norm(self.scatter.truth["g"], axis=-1)
        norms = norms[np.isfinite(norms)]
        if not norms.size:
            return None
        starts = [1.0, *np.quantile(norms, (0.05, 0.5, 0.95))]
        starts = [x for size in starts if size > 0 for x in (size, 0.3 * size)]
        with np.errstate(all="ignore"):
            value = min(starts, key=lambda x: float(np.linalg.norm(self._left(made, x))))
            for _ in range(VALUE_STEPS):
                left = self._left(made, value)
                further = self._left(made, value * (1 + VALUE_SHIFT))
                slope = (left - further) / np.log1p(VALUE_SHIFT)
                step = float(slope @ left) / float(slope @ slope) if slope.any() else 0.0
                if not np.isfinite(step) or abs(step) < 1e-8:
                    break
                value *= float(np.exp(np.clip(step, -1, 1)))
        if not value > VANISHING * np.median(norms):
            return None
        plain = (float(f"{value:.{digits}g}") for digits in (1, 2, 3, 4, 9))
        return Made(made.name, value_variant(next(x for x in plain if abs(x / value - 1) < 1e-5)))

    def _left(self, made: Made, value: float) -> Array:
        """What is left of theirs with the mistake at this value, one axis; inf for NaN."""
        port = self.search.setting.port((*self.base, Made(made.name, value_variant(value))))
        coupled = made.mistake.coupled or any(item.mistake.coupled for item in self.base)
        simulated = self.case.simulate(port, None if coupled else self.rows, self.upto)
        value_there = simulated[self.quantity]
        if coupled:
            value_there = self._cut(value_there, self.quantity)
        left: Array = np.nan_to_num(self.theirs - value_there, nan=np.inf).ravel()
        return left

    def _with_offsets(self, made: Made, offsets: list[int]) -> Array:
        one = Made(made.name, offset_variant(tuple(offsets)))
        port = self.search.setting.port((*self.base, one))
        return self.case.simulate(port, self.rows, self.upto)[self.quantity].ravel()

    def _near(
        self, quantity: str, expected: Array, value: Array, kept: Array | None = None
    ) -> bool:
        """Whether the two are within some rounding of each other (in the rows kept), as a screen
        sees it.
        """
        return bool(self._within(quantity, expected, value, kept).all())

    def _within(
        self, quantity: str, expected: Array, value: Array, kept: Array | None = None
    ) -> Array:
        """`_near` by step, (T,)."""
        error, at = by_step(quantity, expected - value), by_step(quantity, value)
        every = np.ones(at.shape[1], bool) if kept is None else kept
        noise = self.scatter.typical(quantity)
        known = self.scatter.size[quantity]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            rms, size = norms(error, every)[0], norms(at, every)[0]
            relative = np.where(known > 0, noise / known, 0.0)
            # where the reference is 0 (guidance outside its interval) nothing is known of its
            # rounding: that of other steps stands for it
            relative = np.where(known > 0, relative, relative.max(initial=self.case.unit))
            within: Array = rms <= SCREEN * np.maximum(noise, relative * size)
            return within

    def _telling_rows(self) -> Array:
        """Observations with the largest and with the smallest error."""
        total = len(self.case.inputs.obs)
        if total <= SCREEN_ROWS:
            return np.arange(total)
        theirs, truth = self.case.theirs[self.quantity], self.scatter.truth[self.quantity]
        if theirs.shape != truth.shape:
            return np.arange(SCREEN_ROWS)
        error = np.abs(by_step(self.quantity, theirs - truth)).max(axis=(0, 2))
        if self.quantity != "action":
            error = error.reshape(total, -1).max(axis=1)
        error = np.where(self.scatter.chosen, error, np.median(error))
        ranked = np.argsort(error, kind="stable")
        half = SCREEN_ROWS // 2
        return np.sort(np.concatenate([ranked[:half], ranked[-half:]]))

    def _cut(self, value: Array, quantity: str) -> Array:
        if quantity == "action":
            return value[self.rows]
        n = self.case.best_of
        many = (self.rows[:, None] * n + np.arange(n)).ravel()
        return value[..., many] if quantity == "q" else value[:, many]
