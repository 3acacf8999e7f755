"""The search for mistakes that reproduce recorded runs to rounding, under one setting.

The recorded quantities are gone through in causal order. While a hypothesis (at first: no mistake)
reproduces a quantity in every case, it stays. When none does, every mistake of the bank that can
arise up to there is added to each hypothesis and simulated; then pairs; then the quantity is
reported as unknown with the nearest simulations. Smaller hypotheses win. Nothing is named that
does not reproduce *every* recorded number to rounding.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, Mistakes, order
from qgf_ref.crosscheck.sampler.mistakes.base import is_guided
from qgf_ref.crosscheck.sampler.mistakes.gradient import FACTORS
from qgf_ref.crosscheck.sampler.outcome import Diagnosis, Explanation, Near
from qgf_ref.crosscheck.sampler.screen import Screen
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.simulations import Simulations
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.progress import watched

MAX_PAIRS = 400
"""Pairs simulated for one quantity, the most promising first. Where rows depend on each other, all
rows have to be simulated, and a pair counts for several.
"""
MORE_PAIRS = 50
"""Pairs simulated after one that fits, in case another does, too."""
NEAREST = 0.5
"""Share of the squared error that a simulation must explain to be worth showing."""
LOOKED_AT = 6
"""So many of the nearest are tried against what agrees, which takes all rows."""
MAX_MISTAKES = 4


class Search(Simulations):
    """The search under one setting, and how many simulations it took.

    fitting  what reproduced the quantity in hand by now: all that is known where the search is cut
             short
    """

    def __init__(self, setting: Setting, cases: list[RecordedCase]) -> None:
        super().__init__(setting, cases)
        self.singles = self.pairs = self.possible = 0
        self.fitting: list[Mistakes] = []
        self._screens: dict[tuple[Mistakes, str], Screen] = {}

    def screen(self, base: Mistakes, quantity: str) -> Screen:
        """`Screen`, made once, with the effects that it has simulated."""
        key = (base, quantity)
        if key not in self._screens:
            self._screens[key] = Screen(self, base, quantity)
        return self._screens[key]

    def diagnose(self, progress: bool = False, pairs: bool = True) -> Diagnosis:
        """Go through the quantities; see the module. pairs: whether they are simulated, too."""
        alive: list[Mistakes] = [()]
        observed = [n for n in CAUSAL if any(n in case.theirs for case in self.cases)]
        for quantity in observed:
            kept = [h for h in alive if self.excess(h, quantity) <= 1]
            if kept:
                alive = kept
                continue
            larger = self._expand(alive, quantity, progress, pairs)
            if not larger:
                near = self._nearest(alive[0], quantity)
                return Diagnosis(
                    (), quantity, tuple(alive), near, self.singles, self.pairs, self.possible
                )
            alive = larger
        return Diagnosis(
            self.explanations(alive, observed),
            singles=self.singles, pairs=self.pairs, possible_pairs=self.possible,
        )  # fmt: skip

    def _expand(
        self, alive: list[Mistakes], quantity: str, progress: bool, pairs: bool
    ) -> list[Mistakes]:
        self.fitting = []
        for base in alive:
            if len(base) >= MAX_MISTAKES:
                return []
        screens = [self.screen(base, quantity) for base in alive]
        hypotheses = [h for s in screens for h in self._singles(s, quantity, progress)]
        if hypotheses or not pairs:
            return hypotheses
        for screen in screens[:2]:
            if len(screen.base) + 2 > MAX_MISTAKES:
                continue
            left = float(MAX_PAIRS)
            likely = self._pairs(screen)[:MAX_PAIRS]
            for pair in watched(likely, "simulating pairs of mistakes", progress):
                if left <= 0:
                    break
                left -= screen.cost(pair)
                self.pairs += 1
                if screen.passes(pair) and self.agrees((*screen.base, *pair), quantity):
                    hypotheses.append((*screen.base, *pair))
                    self.fitting.append(hypotheses[-1])
                    left = min(left, float(MORE_PAIRS))
        return hypotheses

    def _singles(self, screen: Screen, quantity: str, progress: bool) -> list[Mistakes]:
        """The base with every one mistake more that fits: as listed, then at the best value."""
        base = screen.base
        hypotheses: list[Mistakes] = []
        additions = screen.additions({made.name for made in base})
        for made in watched(additions, "simulating mistakes", progress):
            if made.mistake.unless in {h[-1].name for h in hypotheses}:
                continue
            self.singles += 1
            if screen.passes((made,)) and self.agrees((*base, made), quantity):
                hypotheses.append((*base, made))
                self.fitting.append(hypotheses[-1])
            elif made.mistake.family is not None:
                fitted = screen.fitted(made)
                if fitted is not None and self.agrees((*base, fitted), quantity):
                    hypotheses.append((*base, fitted))
        listed = {h[-1].name for h in hypotheses}
        others = {m.name: m for m in additions if m.mistake.at and m.name not in listed}
        for made in watched(tuple(others.values()), "simulating other values", progress):
            self.singles += 1
            at_best = screen.fitted_value(made)
            if at_best is None:
                continue
            if screen.passes((at_best,)) and self.agrees((*base, at_best), quantity):
                hypotheses.append((*base, at_best))
        return hypotheses

    def alike(self, diagnosis: Diagnosis) -> Mistakes:
        """What is in no bank, as any number fits it, and also reproduces the one explained case."""
        names = [e.mistakes for e in diagnosis.explanations]
        if len(names) != 1 or len(names[0]) != 1 or diagnosis.agrees:
            return ()
        observed = [n for n in CAUSAL if n in self.cases[0].theirs]
        quantity = next(n for n in observed if self.excess((), n) > 1)
        if not is_guided(self.setting.port()) or order(quantity) < order("g"):
            return ()
        name = FACTORS[quantity != "g"].name
        factor = self.screen((), quantity).fitted_value(Made(name, ""))
        return (factor,) if factor and self.agrees((factor,), "action") else ()

    def _pairs(self, screen: Screen) -> list[Mistakes]:
        """Pairs by how much of the error a combination of their single effects explains.

        Together two mistakes do not simply add up (one may scale the other): least squares.
        """
        changed = [
            m
            for m, d in screen.effects.items()
            if np.isfinite(d).all()
            and d.any()
            and m in screen.compatible
            # in a pair, a coarse mistake's room would hide what the other one leaves
            and not m.mistake.coarse
        ]
        pairs = list(combinations(range(len(changed)), 2))
        pairs = [(i, j) for i, j in pairs if changed[i].name != changed[j].name]
        self.possible += len(pairs)
        if not pairs:
            return []
        effects = np.stack([screen.effects[m].ravel() for m in changed])
        effects = effects / np.linalg.norm(effects, axis=1, keepdims=True)
        gram, along = effects @ effects.T, effects @ screen.missing.ravel()
        i, j = np.array(pairs).T
        # squared length of the projection onto two unit vectors
        cosine = gram[i, j]
        sine = np.maximum(1 - cosine**2, 1e-6)
        explained = (along[i] ** 2 + along[j] ** 2 - 2 * cosine * along[i] * along[j]) / sine
        ranked = np.argsort(-explained, kind="stable")
        return [(changed[i[k]], changed[j[k]]) for k in ranked]

    def _nearest(self, base: Mistakes, quantity: str) -> tuple[Near, ...]:
        screen = self.screen(base, quantity)
        total = float((screen.missing**2).sum())
        near = []
        for made in screen.additions({made.name for made in base}):
            effect = screen.effects.get(made)
            if effect is None or not np.isfinite(effect).all() or not total:
                continue
            near.append(Near(made, 1 - float(((screen.missing - effect) ** 2).sum()) / total))
        near.sort(key=lambda n: -n.explained)
        likely = [n for n in near if n.explained > NEAREST and n.made in screen.compatible]
        right = [n for n in likely[:LOOKED_AT] if not self._contradicts(base, n.made, quantity)]
        return tuple(right[:3])

    def _contradicts(self, base: Mistakes, more: Made, quantity: str) -> bool:
        """Whether the mistake changes what agrees: an earlier quantity, another case, a step."""
        made = (*base, more)
        if any(self.excess(made, n) > 1 for n in CAUSAL[: order(quantity)]):
            return True
        for index, judged in self.judgements(base, quantity):
            agreed = judged.excess <= 1
            with_it = self.cases[index].judge(quantity, self.scatter(index, made))
            if (with_it.excess[agreed] > 1).any():
                return True
        return False

    def explanations(self, alive: list[Mistakes], observed: list[str]) -> tuple[Explanation, ...]:
        """Of mistakes that reproduce everything observed, those of one name together."""
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
