"""Q of final actions on fixed observations, and success at equal Q, for the study `q-optimizer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.engine import Engine
from qgf_ref.evaluation.critic_error import chunks, critic_error
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.rollouts import Policy
from qgf_ref.evaluation.statistics import Estimate, bootstrap_mean
from qgf_ref.progress import tracked
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.shared.trained import interval, observations

ROWS = 256
"""Observations of each checkpoint."""
_LEVELS = 9
"""Values of Q at which two curves are compared."""


@dataclass(frozen=True)
class QPoint:
    """One method at one weight, and its episodes.

    q     mean of the aggregated target critic of its final actions on the fixed observations
    gain  the same less that of behaviour cloning, observation by observation: the interval knows
          nothing of how much Q differs between observations
    """

    cell: Cell
    q: Estimate
    gain: Estimate

    @property
    def method(self) -> Method:
        """The method."""
        return self.cell.method

    @property
    def overestimation(self) -> Estimate | None:
        """Mean of Q − return over the chunks that were executed; None where no return is known."""
        error = critic_error(chunks(self.cell))
        return None if error is None else error.bias


def fixed_observations(settings: StudySettings) -> list[Array]:
    """ROWS observations (at most) of each checkpoint; raises InputError as `observations`."""
    return [observations(settings, i, ROWS) for i in range(len(settings.checkpoints))]


def optimised(
    settings: StudySettings, cells: Sequence[Cell], states: Sequence[Array]
) -> list[QPoint]:
    """Each cell with the aggregated target critic of its method's final, clipped actions on the
    `fixed_observations`; every method starts from the same noise. One of the cells must
    be behaviour cloning's.
    """
    noise = np.random.default_rng((settings.seed, 13))
    widest = max(c.method.best_of for c in cells)
    starts = [
        noise.standard_normal((len(obs), widest, checkpoint.flat_action_dim))
        for obs, checkpoint in zip(states, settings.checkpoints, strict=True)
    ]
    engine = Engine.of(settings.backend or "numba").single
    every: list[list[Array]] = []
    for cell in tracked(cells, len(cells), "cell", title="Q of final actions"):
        values: list[Array] = []
        for checkpoint, obs, start in zip(settings.checkpoints, states, starts, strict=True):
            policy = Policy.of(checkpoint, cell.method, cell.weight, engine)
            # the first candidate of best-of-N is the one that N = 1 would draw
            first = start[:, : cell.method.best_of].reshape(-1, start.shape[-1])
            values.append(policy.act(obs, first)[1])
        every.append(values)
    unguided = every[[c.method for c in cells].index(Method())]
    return [
        QPoint(cell, interval(q), interval([a - b for a, b in zip(q, unguided, strict=True)]))
        for cell, q in zip(cells, every, strict=True)
    ]


def at_equal_q(first: Sequence[QPoint], second: Sequence[QPoint], seed: int = 0) -> Estimate | None:
    """Success of `first` minus that of `second` at equal Q, averaged over the Q that both reach.

    Each curve up to its highest Q, where Q rises with w, success interpolated in Q between
    weights; 95% by resampling episodes, which are the same at every weight. The Q are taken as
    known. None when the curves share no Q.
    """
    rising = [_rising(points) for points in (first, second)]
    low = max(r[0].q.value for r in rising)
    high = min(r[-1].q.value for r in rising)
    if not high > low:
        return None
    levels = np.linspace(low, high, _LEVELS)
    sides = []
    for points in rising:
        q = np.array([p.q.value for p in points])
        wins = np.array([[e.success for e in p.cell.episodes] for p in points], dtype=np.float64)
        # interpolation is linear in the successes, so that an episode's share of it is its own
        at = np.array([np.interp(levels, q, unit) for unit in np.eye(len(q))])
        sides.append((at.T @ wins).mean(axis=0))
    return bootstrap_mean(sides[0] - sides[1], seed)


def _rising(points: Sequence[QPoint]) -> list[QPoint]:
    """The points up to the highest Q, less those on the way whose Q is not above all before."""
    rising = [points[0]]
    for p in points[1:]:
        if p.q.value > rising[-1].q.value:
            rising.append(p)
    return rising
