"""Simulations of one setting against recorded cases, each computed once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qgf_ref.crosscheck.bench import CAUSAL, RMS_LIMIT, Case, Judgement, Setting
from qgf_ref.crosscheck.mistakes.bank import Mistakes, order
from qgf_ref.crosscheck.rounding import Scatter, by_step

COARSE = 0.3
"""Two runs of a coarse mistake may differ by this share of its effect."""


def without_coarse(made: Mistakes) -> Mistakes:
    """Those of the mistakes that do not round."""
    return tuple(item for item in made if not item.mistake.coarse)


class Simulations:
    """Simulations of one setting against some cases, remembered."""

    def __init__(self, setting: Setting, cases: list[Case]) -> None:
        self.setting, self.cases = setting, cases
        self._scatters: dict[tuple[int, Mistakes], Scatter] = {}

    def scatter(self, index: int, made: Mistakes) -> Scatter:
        """`Case.scatter`, computed once."""
        key = (index, made)
        if key not in self._scatters:
            found = self.cases[index].scatter(self.setting, made)
            if without_coarse(made) != made:
                other = self.scatter(index, without_coarse(made)).truth
                found = found.widened(other, COARSE / RMS_LIMIT)
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
        for index, judged in self.judgements(made, quantity):
            worst = max(worst, float(judged.excess.max()))
            if worst <= 1 and without_coarse(made) != made:
                worst = max(worst, self._unexplained(index, made, quantity) / COARSE)
            if worst > 1:
                break
        return worst

    def _unexplained(self, index: int, made: Mistakes, quantity: str) -> float:
        """The share of the error without the coarse mistakes that is left with them.

        A coarse mistake is given room in proportion to its own effect, which is large beside a
        smaller mistake's: it must also explain what it is held to be the reason of.
        """
        case, fine = self.cases[index], without_coarse(made)
        without, with_them = self.scatter(index, fine), self.scatter(index, made)
        if bool((case.judge(quantity, without).excess <= 1).all()):
            return 0.0
        theirs, rows = case.theirs[quantity], with_them.rows(quantity)
        left, whole = (
            float(np.linalg.norm(by_step(quantity, theirs - x.truth[quantity])[:, rows]))
            for x in (with_them, without)
        )
        return left / whole if whole else 0.0

    def agrees(self, made: Mistakes, upto: str) -> bool:
        """Whether everything recorded up to this quantity is reproduced."""
        names = CAUSAL[: order(upto) + 1]
        return all(self.excess(made, name) <= 1 for name in reversed(names))

    def worst_case(self, made: Mistakes, quantity: str) -> int:
        """The case that contradicts these mistakes most."""
        found = {i: float(j.excess.max()) for i, j in self.judgements(made, quantity)}
        return max(found, key=lambda i: found[i])
