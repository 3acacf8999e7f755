"""How far guided actions go: from the best-of-N action, and from the data. The paper's Figure 17.

    oracle   ‖a − a*‖, a* the best of N = 64 BC samples for the same observation under the critic
             (the paper's BFN oracle), drawn from noise of its own
    data     distance to the nearest action chunk of the data set, whatever its state
    local    distance to the nearest chunk among those of the 100 nearest states [choice]
    q        the critic's value: what guidance climbs, not what is then earned

Distances are L2 norms of flat chunks (D = H·A normalised coordinates). The data are every H-th
transition whose chunk stays within its episode [choice: a fifth of the windows for H = 5, which no
action shares]; states are compared in units of each feature's standard deviation.
Source: method.md, section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.data.tasks import task as ogbench_task
from qgf_ref.evaluation.statistics import Estimate
from qgf_ref.guidance.queries import critic_value
from qgf_ref.plotting import dress, legend_beside, new_figure, style
from qgf_ref.sampling import sample
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.ood_distance.data_actions import NEAR_STATES, DataActions, whole_chunks
from qgf_ref.studies.shared.trained import (
    banded_line,
    common_times,
    dataset_files,
    interval,
    interval_over,
    left_out,
    observations,
    usable_estimators,
)

DRAWS = 64
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ESTIMATORS = ("ood", "qgf", "qgf_chain", "bptt", "qgf_jacobian", "qgf_shifted", "robust_q")
MEASURES = ("oracle", "data", "local", "q")
Found = Mapping[tuple[str, float | None], Sequence[Mapping[str, Array]]]
"""By estimator and weight, for each checkpoint, every measure (B,)."""

BC, BFN, DATA = "none", f"bfn-{DRAWS}", "held-out data"


def study(settings: StudySettings) -> Outcome:
    """`qgf-ref study ood-distance`. Raises InputError as `observations` and `usable_estimators`,
    and on a data set whose actions are not the checkpoint's.
    """
    common_times(settings)
    names = ("ood", "qgf", "bptt") if settings.quick else ESTIMATORS
    estimators, without = usable_estimators(settings, names)
    weights = WEIGHTS[1::2] if settings.quick else WEIGHTS
    rows = 48 if settings.quick else 128
    found: dict[tuple[str, float | None], list[dict[str, Array]]] = {}
    total = len(settings.checkpoints) * (2 + len(estimators) * len(weights))
    counts, observed = [], []
    with tqdm(total=total, disable=None, unit="cell") as bar:
        for c, checkpoint in enumerate(settings.checkpoints):
            bar.set_postfix_str("reading the data", refresh=False)
            task = ogbench_task(settings.task or "")
            files = dataset_files(settings, c)
            data = DataActions(*whole_chunks(files.train[0], task, checkpoint))
            counts.append(len(data.chunks))
            obs = observations(settings, c, rows)
            observed.append(len(obs))
            measure = _Measure(checkpoint, obs, data, settings.seed)
            bar.update()
            cells: dict[tuple[str, float | None], Array] = {
                (BC, None): measure.draw("none", None, 1),
                (BFN, None): measure.draw("none", None, DRAWS),
            }
            for key, action in cells.items():
                found.setdefault(key, []).append(measure(action))
            for e in estimators:
                for w in weights:
                    bar.set_postfix_str(f"{e.label} w={w:g}", refresh=False)
                    action = measure.draw(e, w, 1)
                    found.setdefault((e.label, w), []).append(measure(action))
                    bar.update()
            if files.validation is not None:
                held, states = whole_chunks(files.validation, task, checkpoint)
                some = np.random.default_rng((settings.seed, 33)).permutation(len(held))[:rows]
                nearest = data.neighbours(states[some])
                reference = {
                    "data": data.distance(held[some]),
                    "local": data.local_distance(held[some], nearest),
                }
                found.setdefault((DATA, None), []).append(reference)
            bar.update()
    table = _table(found)
    text = [
        f"{settings.task}: {observed[0]} observations, {counts[0]} chunks of data,",
        f"oracle: best of {DRAWS} BC samples;",
        f"{interval_over(settings)}.",
        *left_out(without),
        "",
        *_text_table(table),
        "",
        *_findings(table, found, [e.label for e in estimators], weights),
    ]
    return Outcome(
        text="\n".join(text),
        tables={"": table},
        figures={
            "": _figure(table, [e.label for e in estimators], weights),
            "against_q": _q_figure(table, [e.label for e in estimators], weights),
        },
        details={
            "weights": list(weights),
            "observations": observed,
            "chunks": counts,
            "intervals": interval_over(settings),
            "without": without,
        },
    )


class _Measure:
    """Actions of one checkpoint on its observations, and their distances."""

    def __init__(self, checkpoint: Checkpoint, obs: Array, data: DataActions, seed: int) -> None:
        self.flow, self.obs, self.data = checkpoint.flow, obs, data
        self.seed = seed
        self.neighbours = data.neighbours(obs)
        rng = np.random.default_rng((seed, 32))
        self.oracle = sample(self.flow, obs, estimator="none", best_of=DRAWS, rng=rng)

    def draw(self, estimator: Any, weight: float | None, best_of: int) -> Array:
        """Actions (B, D); every estimator and weight starts from the same noise."""
        rng = np.random.default_rng((self.seed, 31))
        return sample(
            self.flow, self.obs, estimator=estimator, weight=weight, best_of=best_of, rng=rng
        )

    def __call__(self, actions: Array) -> dict[str, Array]:
        """Every measure (B,) of actions (B, D)."""
        return {
            "oracle": np.linalg.norm(actions - self.oracle, axis=1),
            "data": self.data.distance(actions),
            "local": self.data.local_distance(actions, self.neighbours),
            "q": critic_value(self.flow, self.obs, actions),
        }


def _table(found: Found) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "weight": weight, "measure": measure}
        | interval([m[measure] for m in by_checkpoint])._asdict()
        for (name, weight), by_checkpoint in found.items()
        for measure in MEASURES
        if measure in by_checkpoint[0]
    ]


def _by_key(table: Rows) -> dict[tuple[str, float | None, str], Estimate]:
    return {
        (r["estimator"], r["weight"], r["measure"]): Estimate(r["value"], r["low"], r["high"])
        for r in table
    }


def _text_table(table: Rows) -> list[str]:
    lines = [
        f"{'':22}{'w':>7}{'to the oracle':>21}{'to the data':>20}{'to near data':>13}{'Q':>14}",
    ]
    at = _by_key(table)
    for name, weight in dict.fromkeys((n, w) for n, w, _ in at):
        shown = "–" if weight is None else f"{weight:g}"
        line = f"{'BC' if name == BC else name:22}{shown:>7}"
        for measure, width, digits in (("oracle", 21, 2), ("data", 20, 2)):
            e = at.get((name, weight, measure))
            cell = "–" if e is None else f"{e.value:.{digits}f} [{e.low:.2f}, {e.high:.2f}]"
            line += f"{cell:>{width}}"
        for measure, width in (("local", 13), ("q", 14)):
            e = at.get((name, weight, measure))
            line += f"{'–' if e is None else f'{e.value:.2f}':>{width}}"
        lines.append(line)
    return lines


def _findings(
    table: Rows, found: Found, names: Sequence[str], weights: Sequence[float]
) -> list[str]:
    at = _by_key(table)
    bound = float(np.quantile(np.concatenate([m["data"] for m in found[BC, None]]), 0.95))
    best = at[BFN, None, "q"].value
    lines = [
        f"95% of BC's actions are within {bound:.2f} of the data; the mean action is beyond that:",
        f"{'':24}{'from w':>8}{'highest Q':>12}{'at w':>8}   distance to the data at {BFN}'s Q",
    ]
    for name in names:
        out = [w for w in weights if at[name, w, "data"].value > bound]
        qs = [at[name, w, "q"].value for w in weights]
        top = weights[int(np.argmax(qs))]
        reached = distance_at(at, name, weights, best)
        equal = "Q not reached" if reached is None else f"{reached:.2f}"
        left = f"{out[0]:g}" if out else "never"
        lines.append(f"{name:24}{left:>8}{max(qs):12.2f}{top:8g}   {equal}")
    if "ood" in names and len(names) > 1:
        lines += ["", *_ood_claim(found, [n for n in names if n != "ood"], weights)]
    return lines


def _ood_claim(found: Found, others: Sequence[str], weights: Sequence[float]) -> list[str]:
    """Whether OOD goes farthest from the data, by intervals of paired differences."""
    verdicts: dict[str, list[float]] = {"yes": [], "within the intervals": [], "no": []}
    for w in weights:
        pairs = [zip(found["ood", w], found[name, w], strict=True) for name in others]
        leads = [interval([ood["data"] - other["data"] for ood, other in pair]) for pair in pairs]
        if any(e.high < 0 for e in leads):
            verdicts["no"].append(w)
        elif all(e.low > 0 for e in leads):
            verdicts["yes"].append(w)
        else:
            verdicts["within the intervals"].append(w)
    shown = [
        f"{verdict} at w = {', '.join(f'{w:g}' for w in ws)}"
        for verdict, ws in verdicts.items()
        if ws
    ]
    return wrap(f'"OOD goes farthest from the data", at equal weight: {"; ".join(shown)}.', 98)


def distance_at(
    at: Mapping[tuple[str, float | None, str], Estimate],
    name: str,
    weights: Sequence[float],
    q: float,
) -> float | None:
    """The distance to the data where the estimator first reaches the value q, linear in Q between
    neighbouring weights from BC on; None where it never does.
    """
    keys: list[tuple[str, float | None]] = [(BC, None), *((name, w) for w in weights)]
    qs = [at[n, w, "q"].value for n, w in keys]
    distances = [at[n, w, "data"].value for n, w in keys]
    for i in range(1, len(qs)):
        if qs[i - 1] < q <= qs[i]:
            share = (q - qs[i - 1]) / (qs[i] - qs[i - 1])
            return distances[i - 1] + share * (distances[i] - distances[i - 1])
    return None


_LABELS = {
    "oracle": f"L2 distance to the best of {DRAWS}",
    "data": "L2 distance to the nearest data chunk",
    "local": f"… among the {NEAR_STATES} nearest states",
    "q": "Q of the action (discounted return)",
}


def _figure(table: Rows, names: Sequence[str], weights: Sequence[float]) -> Figure:
    figure = new_figure(10.6, 6.4)
    panels = figure.subplots(2, 2)
    for axes, measure in zip(panels.ravel(), MEASURES, strict=True):
        for name in names:
            rows = [r for r in table if (r["estimator"], r["measure"]) == (name, measure)]
            banded_line(axes, name, weights, rows)
        _references(axes, table, measure)
        axes.set_xscale("log")
        dress(axes, "", "guidance weight w", _LABELS[measure])
    legend_beside(panels[0, 1])
    return figure


def _references(axes: Any, table: Rows, measure: str) -> None:
    for name, label, line in ((BC, "BC", "-"), (BFN, BFN, "--"), (DATA, DATA, ":")):
        for r in table:
            if (r["estimator"], r["measure"]) == (name, measure):
                color = "#000000" if name == DATA else style("none")["color"]
                axes.axhline(r["value"], color=color, linestyle=line, linewidth=1.2, label=label)


def _q_figure(table: Rows, names: Sequence[str], weights: Sequence[float]) -> Figure:
    """Distance against Q, with the weight as parameter: the comparison at equal Q."""
    at = _by_key(table)
    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    for name in names:
        x = [at[BC, None, "q"].value, *(at[name, w, "q"].value for w in weights)]
        y = [at[BC, None, "data"].value, *(at[name, w, "data"].value for w in weights)]
        axes.plot(x, y, label=name, **style(name))
    for name, label, marker in ((BC, "BC", "o"), (BFN, BFN, "*")):
        x0, y0 = at[name, None, "q"].value, at[name, None, "data"].value
        axes.plot(x0, y0, marker=marker, color="black", linestyle="", label=label, zorder=5)
    dress(axes, "one point a weight, from BC on", _LABELS["q"], _LABELS["data"])
    legend_beside(axes)
    return figure
