"""The critic against the truth: predicted Q of an executed chunk, and the return that followed.

Guidance climbs the critic, so its errors are sought out: compare the bias of guided actions with
that of behaviour cloning. Source: method.md, section 7 (the referee's demand).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.statistics import Estimate, bootstrap_ratio, rank_correlation

BINS = 8


@dataclass(frozen=True)
class Chunks:
    """Every executed chunk of a cell, (N,) each.

    checkpoint, seed, step: where it was executed; episode: running number of its episode;
    terminated: whether that episode ended by itself; q: predicted; realised, observed: see
    `qgf_ref.evaluation.rollouts.Episode`, NaN where undefined.
    """

    checkpoint: Array
    seed: Array
    episode: Array
    step: Array
    terminated: Array
    q: Array
    realised: Array
    observed: Array

    def where(self, chosen: Array) -> Chunks:
        """The chunks for which `chosen` (N,) is true."""
        return Chunks(**{name: array[chosen] for name, array in vars(self).items()})


@dataclass(frozen=True)
class CriticError:
    """How far the critic was off on the chunks that one cell executed.

    episodes, chunks  how many
    cut               share of these episodes that the time limit cut: their returns are completed
    q, realised       means over chunks
    bias              mean of q − realised; the interval resamples episodes, never single chunks
    rmse, rank        root mean square of q − realised; Spearman's ρ, None where undefined
    ece               expected calibration error: mean over chunks of the distance between the means
                      of q and of realised in the chunk's bin of `calibration`
    """

    episodes: int
    chunks: int
    cut: float
    q: float
    realised: float
    bias: Estimate
    rmse: float
    rank: float | None
    ece: float


class Bin(NamedTuple):
    """Mean prediction of one bin of chunks, and the mean return that followed with its interval."""

    predicted: float
    realised: Estimate


def chunks(cell: Cell) -> Chunks:
    """The chunks of a cell."""
    rows = [
        (c, e.seed, number, step, e.terminated, q, np.nan if g is None else g, seen)
        for number, (c, e) in enumerate(
            (c, e) for c, episodes in enumerate(cell.by_checkpoint) for e in episodes
        )
        for step, q, g, seen in zip(e.steps, e.q, e.realised, e.observed, strict=True)
    ]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Chunks(*columns)


def critic_error(
    given: Chunks, *, terminated_only: bool = False, seed: int = 0
) -> CriticError | None:
    """The error on chunks whose return is known; None when there are none.

    terminated_only  leave out episodes that the time limit cut
    """
    known = np.isfinite(given.realised)
    if terminated_only:
        known &= given.terminated
    if not known.any():
        return None
    c = given.where(known)
    error = c.q - c.realised
    sums, counts = _by_episode(c, error)
    _, first = np.unique(c.episode, return_index=True)
    return CriticError(
        episodes=len(first),
        chunks=len(error),
        cut=float(1 - c.terminated[first].mean()),
        q=float(c.q.mean()),
        realised=float(c.realised.mean()),
        bias=bootstrap_ratio(sums, counts, seed),
        rmse=float(np.sqrt(np.square(error).mean())),
        rank=rank_correlation(c.q, c.realised),
        ece=float(sum(abs(error[n].sum()) for n in _bins(c, BINS)) / len(error)),
    )


def calibration(given: Chunks, bins: int = BINS, seed: int = 0) -> list[Bin]:
    """Bins of about equally many chunks by prediction, each with the returns that followed."""
    c = given.where(np.isfinite(given.realised))
    if not len(c.q):
        return []
    found = []
    for chosen in _bins(c, bins):
        part = c.where(chosen)
        sums, counts = _by_episode(part, part.realised)
        found.append(Bin(float(part.q.mean()), bootstrap_ratio(sums, counts, seed)))
    return found


def _bins(c: Chunks, bins: int) -> list[Array]:
    """Which chunks (N,) are in each bin of about equally many by prediction."""
    edges = np.unique(np.quantile(c.q, np.linspace(0, 1, bins + 1)))
    number = np.clip(np.searchsorted(edges, c.q, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [number == i for i in np.unique(number)]


def table_of_chunks(cells: Sequence[Cell]) -> dict[str, Array]:
    """The chunks of all cells as columns, with the number of the cell and the cells' names."""
    parts = [chunks(cell) for cell in cells]
    table = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])
    }
    table["cell"] = np.repeat(np.arange(len(cells)), [len(part.q) for part in parts])
    table["cell_method"] = np.array([cell.method.label for cell in cells])
    table["cell_weight"] = np.array(
        [np.nan if cell.weight is None else cell.weight for cell in cells]
    )
    table["cell_split"] = np.array([cell.split for cell in cells])
    return table


def _by_episode(c: Chunks, values: Array) -> tuple[Array, Array]:
    """(sum, count) of values (N,) in each episode."""
    _, number = np.unique(c.episode, return_inverse=True)
    number = number.reshape(-1)
    return np.bincount(number, weights=values), np.bincount(number).astype(float)
