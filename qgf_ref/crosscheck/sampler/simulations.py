"""Simulations of one setting against recorded cases, each computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qgf_ref.crosscheck.sampler.case import RMS_LIMIT, Judgement, RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes, order
from qgf_ref.crosscheck.sampler.port import divides_otherwise
from qgf_ref.crosscheck.sampler.rounding import Scatter, by_step
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import FlowNetworks
from qgf_ref.interop.trace_file import CAUSAL

COARSE, COARSE_NUMBERS = 0.4, 24
"""Two runs of a coarse mistake may differ by this share of its effect, which fewer numbers could
meet by chance.
"""


def without_coarse(made: Mistakes) -> Mistakes:
    """Those of the mistakes that do not round."""
    return tuple(item for item in made if not item.mistake.coarse)


class Simulations:
    """Simulations of one setting against some cases, remembered."""

    def __init__(self, setting: Setting, cases: list[RecordedCase]) -> None:
        self.setting, self.cases = setting, cases
        self._scatters: dict[tuple[int, Mistakes, str], Scatter] = {}

    def scatter(self, index: int, made: Mistakes, quantity: str = "action") -> Scatter:
        """`RecordedCase.scatter`, computed once, as far as this quantity takes it.

        Most mistakes are ruled out by v, before which the critic need not be asked.
        """
        alone = quantity == "v" and self.cases[index].forced and not self.setting.opaque
        whole, key = (index, made, "action"), (index, made, "v" if alone and made else "action")
        if whole in self._scatters:
            return self._scatters[whole]
        if key not in self._scatters:
            scatter = self.cases[index].scatter(self.setting, made, upto=key[2])
            if without_coarse(made) != made:
                other = self.scatter(index, without_coarse(made), key[2]).truth
                scatter = scatter.widened(other, COARSE / RMS_LIMIT)
            self._scatters[key] = scatter
        return self._scatters[key]

    def forced(self, index: int) -> Scatter:
        """The reference with every quantity from *their* inputs of it."""
        case = self.cases[index]
        return case.scatter(self.setting, given=case.theirs)

    def judgements(self, made: Mistakes, quantity: str) -> Iterator[tuple[int, Judgement]]:
        """The quantity of every case that has it, against these mistakes."""
        for index, case in enumerate(self.cases):
            if quantity in case.theirs:
                yield index, case.judge(quantity, self.scatter(index, made, quantity))

    def excess(self, made: Mistakes, quantity: str) -> float:
        """The largest excess over all cases; stops at the first that disagrees."""
        worst = 0.0
        for index, judged in self.judgements(made, quantity):
            excess = float(judged.excess.max())
            if excess > 1 and not made and self.cases[index].forced:
                # what is right given their inputs of it is right, however their rounding adds up
                forced = self.cases[index].judge(quantity, self.forced(index))
                excess = min(excess, float(forced.excess.max()))
            worst = max(worst, excess)
            if worst > 1:
                return worst
        if without_coarse(made) != made:
            worst = max(worst, self._unexplained(made, quantity) / COARSE)
        return worst

    def _unexplained(self, made: Mistakes, quantity: str) -> float:
        """The share of the error without the coarse mistakes that is left with them, in all cases.

        A coarse mistake is given room in proportion to its own effect, which is large beside a
        smaller mistake's: it must also explain what it is held to be the reason of.
        """
        left = whole = 0.0
        numbers = 0
        for index, judged in self.judgements(without_coarse(made), quantity):
            if (judged.excess <= 1).all():
                continue
            without, with_them = (
                self.scatter(index, without_coarse(made), quantity),
                self.scatter(index, made, quantity),
            )
            theirs, rows = self.cases[index].theirs[quantity], with_them.rows(quantity)
            for_both = (by_step(quantity, theirs - x.truth[quantity]) for x in (with_them, without))
            mine, bare = (float((error[:, rows] ** 2).sum()) for error in for_both)
            left, whole = left + mine, whole + bare
            numbers += by_step(quantity, theirs)[:, rows].size
        if 0 < numbers < COARSE_NUMBERS:
            return np.inf
        return float(np.sqrt(left / whole)) if whole else 0.0

    def agrees(self, made: Mistakes, upto: str) -> bool:
        """Whether everything recorded up to this quantity is reproduced."""
        names = CAUSAL[: order(upto) + 1]
        return all(self.excess(made, name) <= 1 for name in reversed(names))

    def worst_case(self, made: Mistakes, quantity: str) -> int:
        """The case that contradicts these mistakes most."""
        excesses = {i: float(j.excess.max()) for i, j in self.judgements(made, quantity)}
        return max(excesses, key=lambda i: excesses[i])


def ended_like(setting: Setting, cases: list[RecordedCase]) -> Setting:
    """The setting, its result clipped unless theirs is not: both are right of a diffusion."""
    if setting.actor is None or not setting.actor.chain.draws:
        return setting
    beyond = any((np.abs(case.trace.action) > 1).any() for case in cases)
    return replace(setting, open_ended=beyond)


def settings_for(setting: Setting, case: RecordedCase) -> list[Setting]:
    """The settings under which a correct port may have run, the likeliest first.

    A float32 port rounds k/T as a product or as a quotient, or says that it embeds exact times; a
    float64 port embeds exact times, or rounds them as the official code does. The times of
    somebody's networks are those of their convention, or rounded as other code of the same
    convention does.
    """
    if isinstance(setting.checkpoint, FlowNetworks):
        own = replace(setting, time_precision="float32")
        others = setting.checkpoint.rounding_otherwise()
        return [own, *(replace(own, checkpoint=other) for other in others)]
    single = [replace(setting, time_precision="float32", divided=False)]
    if divides_otherwise(setting.denoise_steps):
        single.append(replace(setting, time_precision="float32", divided=True))
    if case.single:
        if case.trace.metadata.get("time_embedding") != "exact":
            return single
        return [replace(setting, time_precision="exact", divided=False, wide_times=True), *single]
    return [replace(setting, time_precision="exact", divided=False), *single]
