"""The points of the study `compute`: what an action costs, who is on the frontier, who is cheap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qgf_ref.bench.counts import Counts
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.statistics import paired_difference


@dataclass(frozen=True)
class CostPoint:
    """One method at its chosen weight on the held-out episodes, and what an action of it costs.

    family  the curve that it belongs to, as "QGF, T steps"; number  its N, L or T
    counts  None for an estimator that does not state its products
    ms      median milliseconds by backend
    """

    family: str
    number: int
    cell: Cell
    counts: Counts | None
    ms: dict[str, dict[str, float]]

    @property
    def label(self) -> str:
        """The method with its number."""
        method = self.cell.method
        if method.gradient_steps is not None:
            return f"{method.label} L={self.number}"
        return method.label + (
            f" T={self.number}" if method.best_of == 1 and method.weighted else ""
        )

    @property
    def mflop(self) -> float | None:
        """Nominal, of one action chunk, in millions."""
        return None if self.counts is None else self.counts.nominal.flops / 1e6


Cost = Callable[[CostPoint], float | None]
COSTS: dict[str, Cost] = {
    "FLOPs": lambda p: p.mflop,
    "ms (numba)": lambda p: p.ms["numba"]["median"],
    "ms (numpy)": lambda p: p.ms["numpy"]["median"],
}


def frontier(points: Sequence[CostPoint], cost: Cost) -> list[CostPoint]:
    """The points that no other dominates, cheapest first: each succeeds more than all cheaper."""
    known = [(c, -p.cell.success.value, i) for i, p in enumerate(points) if (c := cost(p))]
    undominated: list[CostPoint] = []
    for _, _, i in sorted(known):
        rate = points[i].cell.success.value
        if not undominated or rate > undominated[-1].cell.success.value:
            undominated.append(points[i])
    return undominated


def cheapest_of_the_best(points: Sequence[CostPoint], cost: Cost) -> CostPoint | None:
    """The cheapest point whose paired difference to the best one's success holds 0 in its 95%
    interval; None when no cost is known.
    """
    top = [e.success for e in best(points).cell.episodes]
    near = [
        (c, i)
        for i, p in enumerate(points)
        if (c := cost(p)) is not None
        and paired_difference([e.success for e in p.cell.episodes], top).high >= 0
    ]
    return points[min(near)[1]] if near else None


def best(points: Sequence[CostPoint]) -> CostPoint:
    """The point of the highest success; among equals of the higher return."""
    return max(points, key=lambda p: (p.cell.success.value, p.cell.mean_reward))
