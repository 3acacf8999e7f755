"""Where a recorded run first differs from the reference, and by which element most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qgf_ref.crosscheck.sampler.case import Judgement, RecordedCase, causal_order
from qgf_ref.crosscheck.sampler.rounding import Scatter, by_step
from qgf_ref.crosscheck.sampler.setting import Setting


@dataclass(frozen=True)
class Element:
    """One element of one quantity: its index, both values, and their distance.

    index   as in the recorded array
    units   |theirs − reference| in units of the recorded precision's rounding, at the element's
            magnitude or the quantity's root mean square, whichever is larger
    """

    quantity: str
    step: int
    index: tuple[int, ...]
    theirs: float
    reference: float
    units: float

    def __str__(self) -> str:
        index = ", ".join(map(str, self.index))
        return (
            f"{self.quantity}[{index}]: theirs {self.theirs:.8g}, reference {self.reference:.8g}, "
            f"off by {self.units:.3g} units of rounding"
        )


class Place(NamedTuple):
    """Where a recorded run first differs from the reference.

    forced, free: as in `Comparison`; scatter: of the pass that localises.
    """

    forced: dict[str, Judgement]
    free: dict[str, Judgement]
    scatter: Scatter
    first: tuple[int, str] | None
    worst: Element | None


def located(setting: Setting, case: RecordedCase) -> Place:
    """Both passes over one case, and the first quantity and step that rounding does not explain."""
    scatter = case.scatter(setting, free=True)
    free = {name: case.judge(name, scatter) for name in case.observed}
    forced = {}
    if case.forced:
        scatter = case.scatter(setting, given=case.theirs)
        forced = {name: case.judge(name, scatter) for name in case.observed}
    first = _first(forced or free)
    worst = None if first is None else _worst(case, scatter, *first)
    return Place(forced, free, scatter, first, worst)


def _first(judged: dict[str, Judgement]) -> tuple[int, str] | None:
    wrong = [
        (step, name)
        for name, judgement in judged.items()
        for step in np.flatnonzero(judgement.excess > 1).tolist()
    ]
    # the action follows the last step
    last = max((len(j.ratio) for j in judged.values()), default=1)
    return min(
        wrong,
        key=lambda at: causal_order(last if at[1] == "action" else at[0], at[1]),
        default=None,
    )


def _worst(case: RecordedCase, scatter: Scatter, step: int, quantity: str) -> Element | None:
    theirs, truth = case.theirs[quantity], scatter.truth[quantity]
    if theirs.shape != truth.shape:
        return None
    error = np.abs(by_step(quantity, theirs - truth))
    keep = scatter.rows(quantity)
    at = np.where(keep[:, None], error[step], -1.0)
    row, column = (int(i) for i in np.unravel_index(int(at.argmax()), at.shape))
    index: tuple[int, ...] = (row, column)
    if quantity == "q":
        index = (step, column, row)
    elif quantity != "action":
        index = (step, row, column)
    scale = max(abs(float(truth[index])), float(scatter.size[quantity][step]))
    units = float(error[step, row, column]) / (2 * case.unit * scale) if scale else np.inf
    return Element(quantity, step, index, float(theirs[index]), float(truth[index]), units)
