"""The 2×2 ablation on trained checkpoints: the four gradients along the BC chain, and success.

clipped     share of coordinates of the one-step estimate outside the action bound
change      ‖G − G_qgf‖/‖G_qgf‖ of each row, and the cosine and ratio of norms of the two
variance    E‖G(a_t + σξ) − mean‖²/‖mean‖² over draws ξ ~ N(0, I), σ = 0.1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from qgf_ref.studies.ablation.factors import BOTH, FOUR, JACOBIAN, MASK, NEITHER, factor_rows
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.shared.trained import chain, common_times, interval, observations, over_time

SIGMA = 0.1
COMPARED = ("change", "cosine", "norm ratio")


def gradients(
    settings: StudySettings, *, rows: int, draws: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Long-form rows by t and over all t: clipped shares, the comparison of each of the three with
    qgf, and the cells and effects of the variance.
    """
    measured = []
    times = common_times(settings)
    for c, checkpoint in enumerate(settings.checkpoints):
        progress("gradients along the BC chain")
        flow = checkpoint.flow
        states = chain(flow, observations(settings, c, rows), settings.seed)
        still = np.zeros((len(states), *states[0].action.shape), states[0].action.dtype)
        bound = np.inf if flow.action_bound is None else flow.action_bound
        free = replace(flow, action_bound=None)
        outside = np.stack([np.abs(one_step_estimate(free, s).x) > bound for s in states])
        by_measure: dict[str, dict[str, Array]] = {"clipped": {"": outside.mean(axis=-1)}}
        rng = np.random.default_rng((settings.seed, 41))
        xi = rng.standard_normal((draws, *still.shape)).astype(still.dtype)
        G = {name: gradients_near(estimator(name), flow, states, still) for name in FOUR}
        by_measure["change"] = {
            n: _ratio(_norm(G[n] - G[NEITHER]), _norm(G[NEITHER])) for n in FOUR
        }
        by_measure["cosine"] = {n: cosine(G[n], G[NEITHER]) for n in FOUR}
        by_measure["norm ratio"] = {n: _ratio(_norm(G[n]), _norm(G[NEITHER])) for n in FOUR}
        by_measure["variance"] = {}
        for name in FOUR:
            progress("gradients along the BC chain")
            e = estimator(name)
            near = np.stack([gradients_near(e, flow, states, SIGMA * x) for x in xi])
            by_measure["variance"][name] = relative_variance(near)
        measured.append(by_measure)
    result: list[dict[str, Any]] = []
    for k, t in (("all", "all"), *enumerate(times)):
        head = {"part": "trained", "time": t}

        def at(measure: str, name: str, k: Any = k) -> list[Array]:
            values = [m[measure][name] for m in measured]
            return [over_time(v) if k == "all" else v[k] for v in values]

        result.append(
            {**head, "measure": "clipped", "term": "", **interval(at("clipped", ""))._asdict()}
        )
        for measure in COMPARED:
            for name in (MASK, JACOBIAN, BOTH):
                estimate = interval(at(measure, name))
                result.append({**head, "measure": measure, "term": name, **estimate._asdict()})
        variance = {name: at("variance", name) for name in FOUR}
        result += factor_rows(variance, interval, {**head, "measure": "variance"})
    return result


def relative_variance(draws: Array) -> Array:
    """(T, B) of draws (K, T, B, D): each row's unbiased variance, over the step's mean ‖mean‖²."""
    x = draws.astype(np.float64)
    mean = x.mean(axis=0)
    variance = ((x - mean) ** 2).sum(axis=(0, -1)) / (len(x) - 1)
    return _ratio(variance, (mean**2).sum(axis=-1).mean(axis=1)[:, None])


def _norm(x: Array) -> Array:
    return np.asarray(np.linalg.norm(x.astype(np.float64), axis=-1))


def _ratio(a: Array, b: Array) -> Array:
    """a/b, NaN where b is 0."""
    b = np.broadcast_to(b, a.shape)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


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
