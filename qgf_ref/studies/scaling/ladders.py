"""How success and losses change along a ladder of sizes: slopes, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.evaluation.statistics import Estimate, prefixed, student_mean
from qgf_ref.studies.scaling.sizes import GUIDED, TRAINED, NetworkSize

METHODS = {"bc": GUIDED, "qgf": GUIDED, "edp": TRAINED}
"""What is played, and the agent whose runs play it."""


@dataclass(frozen=True)
class SizeResults:
    """All that was measured of one size.

    runs     by agent: what `measured` says of each training seed's run
    wins     by method: success (0 or 1) of each held-out episode, seed by seed; the episodes of a
             seed are the same for all methods and sizes
    chosen   by method: the weight that the selection episodes chose, in words
    updates  by agent: updates a second
    critic   by method: mean Q − return of the held-out episodes, where it could be measured
    """

    size: NetworkSize
    runs: Mapping[str, Sequence[Mapping[str, Any]]]
    wins: Mapping[str, Sequence[Sequence[int]]]
    chosen: Mapping[str, str]
    updates: Mapping[str, float]
    critic: Mapping[str, float | None]

    @property
    def parameters(self) -> int:
        """Of all networks, the target critic among them: the same for both agents."""
        return int(self.runs[GUIDED][0]["parameters"])

    def flat(self, method: str) -> list[int]:
        """All episodes of a method."""
        return [win for seed in self.wins[method] for win in seed]

    def success(self, method: str) -> list[float]:
        """Of each training seed."""
        return [sum(seed) / len(seed) for seed in self.wins[method]]

    def of_runs(self, agent: str, quantity: str) -> list[float]:
        """A quantity of each training seed."""
        return [float(run[quantity]) for run in self.runs[agent]]


def slope(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Of the least-squares line: Σ(x − x̄)(y − ȳ) / Σ(x − x̄)²; x, y (n,).

    Raises InputError unless two x differ.
    """
    from_mean = np.asarray(x, dtype=np.float64) - np.mean(x)
    if not from_mean.any():
        raise InputError("a slope needs two sizes at least")
    values = np.asarray(y, dtype=np.float64)
    return float(from_mean @ (values - values.mean()) / (from_mean @ from_mean))


def per_doubling(sizes: Sequence[SizeResults], by_seed: Sequence[Sequence[float]]) -> Estimate:
    """Change of a quantity for twice the parameters: the slope against their log2, by each training
    seed, with Student's t over seeds. by_seed: (sizes, seeds).
    """
    x = np.log2([each.parameters for each in sizes])
    return student_mean([slope(x, y) for y in np.asarray(by_seed, dtype=np.float64).T])


def slopes(ladder: str, sizes: Sequence[SizeResults]) -> list[dict[str, Any]]:
    """One row for each quantity: success of every method, and of qgf minus edp, paired by training
    seed; losses of both agents on held-out data.
    """
    quantities: dict[tuple[str, str], list[list[float]]] = {
        ("success", method): [each.success(method) for each in sizes] for method in METHODS
    }
    quantities["success", "qgf − edp"] = [
        list(np.subtract(each.success("qgf"), each.success("edp"))) for each in sizes
    ]
    for loss in ("bc_loss", "critic_loss"):
        for agent in (GUIDED, TRAINED):
            quantities[loss, agent] = [each.of_runs(agent, loss) for each in sizes]
    return [
        {
            "ladder": ladder, "quantity": quantity, "of": name,
            "from": str(sizes[0].size), "to": str(sizes[-1].size), "sizes": len(sizes),
            **prefixed("per_doubling", per_doubling(sizes, by_seed)),
        }
        for (quantity, name), by_seed in quantities.items()
    ]  # fmt: skip
