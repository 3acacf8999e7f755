"""Diagnosis by simulation: which mistakes reproduce a recorded run to rounding.

The recorded quantities are gone through in causal order. While a hypothesis (at first: no mistake)
reproduces a quantity in every case, it stays. When none does, every mistake of the bank that can
arise up to there is added to each hypothesis and simulated; then pairs; then the quantity is
reported as unknown with the nearest simulations. Smaller hypotheses win. Nothing is named that
does not reproduce *every* recorded number to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from tqdm import tqdm

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.bench import CAUSAL, RMS_LIMIT, Case, Judgement, Setting
from qgf_ref.crosscheck.mistakes.bank import Made, Mistakes, candidates, first_quantity, order
from qgf_ref.crosscheck.port import divides_otherwise
from qgf_ref.crosscheck.rounding import Scatter, by_step, norms

SCREEN_ROWS = 8
SCREEN = 100.0
"""A simulation further from theirs than this many times the rounding is not looked at closely."""
MAX_PAIRS = 400
"""Pairs simulated for one quantity, the most promising first."""
MORE_PAIRS = 50
"""Pairs simulated after one that fits, in case another does, too."""
COARSE = 0.3
"""Two runs of a coarse mistake may differ by this share of its effect."""
MAX_MISTAKES = 4


@dataclass(frozen=True)
class Explanation:
    """Mistakes that together reproduce everything recorded, and how closely.

    excess   largest times over the limit of any quantity and step, ≤ 1
    variants what else fits under the same names (a place, a rounding)
    """

    mistakes: Mistakes
    excess: float
    variants: tuple[Mistakes, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The mistakes' names."""
        return tuple(made.name for made in self.mistakes)


@dataclass(frozen=True)
class Near:
    """A simulation that does not reproduce the record, and the share of the error it explains."""

    made: Made
    explained: float


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of a search.

    explanations  all of the smallest size that reproduce everything; empty if none does
    unknown       the first quantity that nothing in the bank explains
    so_far        what explains the quantities before it
    nearest       the closest simulations of `unknown`
    singles, pairs, possible_pairs  how many were simulated, of how many pairs
    """

    explanations: tuple[Explanation, ...]
    unknown: str | None = None
    so_far: tuple[Mistakes, ...] = ()
    nearest: tuple[Near, ...] = ()
    singles: int = 0
    pairs: int = 0
    possible_pairs: int = 0

    @property
    def agrees(self) -> bool:
        """Whether no mistake at all explains everything."""
        return any(not e.mistakes for e in self.explanations)

    @property
    def ambiguous(self) -> bool:
        """Whether several different mistakes explain everything equally well."""
        return len(self.explanations) > 1


class Search:
    """Simulations of one setting against some cases, remembered."""

    def __init__(self, setting: Setting, cases: list[Case]) -> None:
        self.setting, self.cases = setting, cases
        self._scatters: dict[tuple[int, Mistakes], Scatter] = {}
        self.singles = self.pairs = self.possible = 0

    def scatter(self, index: int, made: Mistakes) -> Scatter:
        """`Case.scatter`, computed once."""
        key = (index, made)
        if key not in self._scatters:
            found = self.cases[index].scatter(self.setting, made)
            fine = tuple(item for item in made if not item.mistake.coarse)
            if fine != made:
                found = found.widened(self.scatter(index, fine).truth, COARSE / RMS_LIMIT)
            self._scatters[key] = found
        return self._scatters[key]

    def judgements(self, made: Mistakes, quantity: str) -> Iterator[tuple[int, Judgement]]:
        """The quantity of every case that has it, against these mistakes."""
        for index, case in enumerate(self.cases):
            if quantity in case.theirs:
                yield index, case.judge(quantity, self.scatter(index, made))

    def excess(self, made: Mistakes, quantity: str) -> float:
        """The largest excess over all cases; stops at the first that disagrees."""
        worst = 0.0
        for _, judged in self.judgements(made, quantity):
            worst = max(worst, float(judged.excess.max()))
            if worst > 1:
                break
        return worst

    def agrees(self, made: Mistakes, upto: str) -> bool:
        """Whether everything recorded up to this quantity is reproduced."""
        names = CAUSAL[: order(upto) + 1]
        return all(self.excess(made, name) <= 1 for name in reversed(names))

    def worst_case(self, made: Mistakes, quantity: str) -> int:
        """The case that contradicts these mistakes most."""
        found = {i: float(j.excess.max()) for i, j in self.judgements(made, quantity)}
        return max(found, key=lambda i: found[i])

    def diagnose(self, progress: bool = False) -> Diagnosis:
        """Go through the quantities; see the module."""
        alive: list[Mistakes] = [()]
        observed = [n for n in CAUSAL if any(n in case.theirs for case in self.cases)]
        for quantity in observed:
            kept = [h for h in alive if self.excess(h, quantity) <= 1]
            if kept:
                alive = kept
                continue
            larger = self._expand(alive, quantity, progress)
            if not larger:
                near = self._nearest(alive[0], quantity)
                return Diagnosis(
                    (), quantity, tuple(alive), near, self.singles, self.pairs, self.possible
                )
            alive = larger
        return Diagnosis(
            self._explanations(alive, observed),
            singles=self.singles, pairs=self.pairs, possible_pairs=self.possible,
        )  # fmt: skip

    def _expand(self, alive: list[Mistakes], quantity: str, progress: bool) -> list[Mistakes]:
        for base in alive:
            if len(base) >= MAX_MISTAKES:
                return []
        found: list[Mistakes] = []
        screens = [Screen(self, base, quantity) for base in alive]
        for screen in screens:
            named = {made.name for made in screen.base}
            for made in _shown(screen.additions(named), "mistakes", progress):
                self.singles += 1
                if screen.passes((made,)) and self.agrees((*screen.base, made), quantity):
                    found.append((*screen.base, made))
        if found:
            return found
        for screen in screens[:2]:
            if len(screen.base) + 2 > MAX_MISTAKES:
                continue
            left = MAX_PAIRS
            for pair in _shown(self._pairs(screen), "pairs of mistakes", progress):
                if left == 0:
                    break
                left -= 1
                self.pairs += 1
                if screen.passes(pair) and self.agrees((*screen.base, *pair), quantity):
                    found.append((*screen.base, *pair))
                    left = min(left, MORE_PAIRS)
        return found

    def _pairs(self, screen: Screen) -> list[Mistakes]:
        """Pairs by how well the sum of their single effects explains the error, best first."""
        changed = {
            m: d
            for m, d in screen.effects.items()
            if np.isfinite(d).all() and d.any() and m in screen.compatible
        }
        pairs = [p for p in combinations(changed, 2) if p[0].name != p[1].name]
        self.possible += len(pairs)
        missing = screen.missing

        def left(pair: tuple[Made, Made]) -> float:
            one, two = (changed[made] for made in pair)
            return float(np.linalg.norm(missing - one - two))

        return sorted(pairs, key=left)

    def _nearest(self, base: Mistakes, quantity: str) -> tuple[Near, ...]:
        screen = Screen(self, base, quantity)
        total = float((screen.missing**2).sum())
        near = []
        for made in screen.additions({made.name for made in base}):
            screen.passes((made,))
            effect = screen.effects.get(made)
            if effect is None or not np.isfinite(effect).all() or not total:
                continue
            near.append(Near(made, 1 - float(((screen.missing - effect) ** 2).sum()) / total))
        near.sort(key=lambda n: -n.explained)
        return tuple(n for n in near if n.explained > 0)[:3]

    def _explanations(self, alive: list[Mistakes], observed: list[str]) -> tuple[Explanation, ...]:
        groups: dict[tuple[str, ...], list[tuple[float, Mistakes]]] = {}
        for made in alive:
            excess = max(self.excess(made, name) for name in observed)
            groups.setdefault(tuple(sorted(m.name for m in made)), []).append((excess, made))
        ranked = []
        for fits in groups.values():
            # the usual variant speaks for its name; the others are listed beside it
            excess, made = fits[0]
            ranked.append(Explanation(made, excess, tuple(other for _, other in fits[1:])))
        return tuple(sorted(ranked, key=lambda e: (len(e.mistakes), e.excess)))


class Screen:
    """A quick look at a few rows of the case that says most about one quantity."""

    def __init__(self, search: Search, base: Mistakes, quantity: str) -> None:
        self.search, self.base, self.quantity = search, base, quantity
        self.index = search.worst_case(base, quantity)
        self.case = search.cases[self.index]
        self.scatter = search.scatter(self.index, base)
        self.rows = self._telling_rows()
        self.upto = "v" if quantity == "v" else "action"
        self.truth = self._cut(self.scatter.truth[quantity], quantity)
        self.theirs = self._cut(self.case.theirs[quantity], quantity)
        self.missing = self.theirs - self.truth
        self.effects: dict[Made, Array] = {}
        self.compatible: set[Made] = set()
        earlier = [n for n in CAUSAL[: order(quantity)] if n in self.case.theirs]
        self.earlier = {n: self._cut(self.scatter.truth[n], n) for n in earlier}

    def additions(self, named: set[str]) -> list[Made]:
        """The mistakes that can arise up to this quantity, less those already assumed."""
        port = self.search.setting.port()
        return [
            made
            for made in candidates(port, self.case.best_of)
            if made.name not in named and first_quantity(made) <= order(self.quantity)
        ]

    def passes(self, more: Mistakes) -> bool:
        """Whether base and these mistakes come near what was recorded."""
        made = (*self.base, *more)
        coupled = any(item.mistake.coupled for item in made)
        rows = None if coupled else self.rows
        found = self.case.simulate(self.search.setting.port(made), rows, self.upto)
        if coupled:
            found = {name: self._cut(value, name) for name, value in found.items()}
        value = found[self.quantity]
        if value.shape != self.theirs.shape:
            return False
        if len(more) == 1:
            self.effects[more[0]] = value - self.truth
            if all(self._near(n, before, found[n]) for n, before in self.earlier.items()):
                self.compatible.add(more[0])
        return self._near(self.quantity, self.theirs, value)

    def _near(self, quantity: str, expected: Array, value: Array) -> bool:
        """Whether the two are within some rounding of each other, as a screen sees it."""
        error, at = by_step(quantity, expected - value), by_step(quantity, value)
        every = np.ones(at.shape[1], bool)
        noise = np.maximum(
            np.median(self.scatter.rms[quantity], axis=0), self.scatter.floor(quantity)
        )
        known = self.scatter.size[quantity]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            rms, size = norms(error, every)[0], norms(at, every)[0]
            relative = np.where(known > 0, noise / known, 0.0)
            return bool((rms <= SCREEN * np.maximum(noise, relative * size)).all())

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


def _shown(items: Iterable[Made] | list[Mistakes], what: str, progress: bool) -> Iterable:  # type: ignore[type-arg]
    return tqdm(items, desc=f"simulating {what}", leave=False, disable=None if progress else True)


def settings_for(setting: Setting, case: Case) -> list[Setting]:
    """The settings under which a correct port may have run, the likeliest first.

    A float32 port rounds k/T as a product or as a quotient; a float64 port embeds exact times, or
    rounds them as the official code does.
    """
    single = [replace(setting, time_precision="float32", divided=False)]
    if divides_otherwise(setting.denoise_steps):
        single.append(replace(setting, time_precision="float32", divided=True))
    if case.single:
        return single
    return [replace(setting, time_precision="exact", divided=False), *single]


def diagnose(
    setting: Setting, cases: list[Case], progress: bool = False
) -> tuple[Setting, Search, Diagnosis]:
    """The diagnosis under the first setting that explains everything, else under the first.

    All cases must be of one precision.
    """
    tried: list[tuple[Setting, Search, Diagnosis]] = []
    choices = settings_for(setting, cases[0])
    for choice in choices:
        search = Search(choice, cases)
        observed = [n for n in CAUSAL if any(n in case.theirs for case in cases)]
        if all(search.excess((), name) <= 1 for name in observed):
            return choice, search, Diagnosis((Explanation((), 0.0),))
    for choice in choices:
        search = Search(choice, cases)
        found = search.diagnose(progress)
        tried.append((choice, search, found))
        if found.explanations:
            return tried[-1]
    return max(tried, key=lambda t: order(t[2].unknown or "action"))
