"""The 2×2 ablation on trained checkpoints: the four gradients along the BC chain, and success.

clipped     share of coordinates of the one-step estimate outside the action bound
change      ‖G − G_qgf‖/‖G_qgf‖ of each row, and the cosine and ratio of norms of the two
variance    E‖G(a_t + σξ) − mean‖²/‖mean‖² over draws ξ ~ N(0, I), σ = 0.1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.profile import cosine, gradients_near
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell, Evaluation
from qgf_ref.evaluation.statistics import paired_difference
from qgf_ref.guidance.queries import one_step_estimate
from qgf_ref.guidance.registry import estimator
from qgf_ref.ops.clip import outside
from qgf_ref.progress import Progress
from qgf_ref.studies.ablation.factors import BOTH, FOUR, JACOBIAN, MASK, NEITHER, factor_rows
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.shared.trained import (
    at_step,
    chains,
    common_times,
    interval,
    normal_offsets,
    ratio,
    time_rows,
)

SIGMA = 0.1
COMPARED = ("change", "cosine", "norm ratio")


def gradients(
    settings: StudySettings, *, rows: int, draws: int, job: Progress
) -> list[dict[str, Any]]:
    """Long-form rows by t and over all t: clipped shares, the comparison of each of the three with
    qgf, and the cells and effects of the variance.
    """
    measured = []
    times = common_times(settings)
    for flow, states in chains(settings, rows):
        job.say("gradients along the BC chain")
        job.advance()
        bound = np.inf if flow.bound is None else flow.bound
        free = replace(flow, action_bound=None)
        clipped = np.stack([outside(one_step_estimate(free, s).x, bound) for s in states])
        by_measure: dict[str, dict[str, Array]] = {"clipped": {"": clipped.mean(axis=-1)}}
        xi = normal_offsets(states, (settings.seed, 41), draws)
        still = np.zeros_like(xi[0])
        G = {name: gradients_near(estimator(name), flow, states, still) for name in FOUR}
        by_measure["change"] = {n: ratio(_norm(G[n] - G[NEITHER]), _norm(G[NEITHER])) for n in FOUR}
        by_measure["cosine"] = {n: cosine(G[n], G[NEITHER]) for n in FOUR}
        by_measure["norm ratio"] = {n: ratio(_norm(G[n]), _norm(G[NEITHER])) for n in FOUR}
        by_measure["variance"] = {}
        for name in FOUR:
            job.advance()
            e = estimator(name)
            near = np.stack([gradients_near(e, flow, states, SIGMA * x) for x in xi])
            by_measure["variance"][name] = relative_variance(near)
        measured.append(by_measure)
    result: list[dict[str, Any]] = []
    for k in (None, *range(len(times))):
        head = {"part": "trained", "time": "all" if k is None else times[k]}
        compared = [(measure, name) for measure in COMPARED for name in (MASK, JACOBIAN, BOTH)]
        for measure, name in (("clipped", ""), *compared):
            where = {**head, "measure": measure, "term": name}
            result += time_rows(where, [m[measure][name] for m in measured], times, (k,))
        variance = {name: at_step([m["variance"][name] for m in measured], k) for name in FOUR}
        result += factor_rows(variance, interval, {**head, "measure": "variance"})
    return result


def relative_variance(draws: Array) -> Array:
    """(T, B) of draws (K, T, B, D): each row's unbiased variance, over the step's mean ‖mean‖²."""
    x = draws.astype(np.float64)
    mean = x.mean(axis=0)
    variance = ((x - mean) ** 2).sum(axis=(0, -1)) / (len(x) - 1)
    return ratio(variance, (mean**2).sum(axis=-1).mean(axis=1)[:, None])


def _norm(x: Array) -> Array:
    return np.asarray(np.linalg.norm(x.astype(np.float64), axis=-1))


def success_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Cells, effects and simple effects of success: held out, and at each weight on the selection
    episodes (the same weight for all four).
    """
    rows = _factors({c.method.estimator: c for c in evaluation.held_out}, "chosen", "held-out")
    weights = dict.fromkeys(c.weight for c in evaluation.selection)
    for weight in weights:
        cells = {c.method.estimator: c for c in evaluation.selection if c.weight == weight}
        rows += _factors(cells, weight, "selection")
    return rows


def _factors(cells: Mapping[str, Cell], weight: Any, split: str) -> list[dict[str, Any]]:
    head = {"part": "success", "split": split, "weight": weight, "measure": "success"}
    wins = {
        name: [np.array([float(e.success) for e in each]) for each in cells[name].by_checkpoint]
        for name in FOUR
    }
    rows = factor_rows(wins, interval, head)
    for row in rows:
        if row["term"] in FOUR:
            # of one method's own rate, Wilson's interval, which does not end at 0 or 1
            row.update(cells[row["term"]].success._asdict())
            row["chosen"] = cells[row["term"]].weight
    for first, second in ((MASK, NEITHER), (BOTH, JACOBIAN), (JACOBIAN, NEITHER), (BOTH, MASK)):
        pair = [[e.success for e in cells[name].episodes] for name in (first, second)]
        rows.append({**head, "term": f"{first} − {second}", **paired_difference(*pair)._asdict()})
    return rows


METHODS = tuple(Method(name) for name in FOUR)
