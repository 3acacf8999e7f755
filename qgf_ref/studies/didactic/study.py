"""`qgf-ref study didactic`: three modes in one dimension, every estimator against the exact π.

The paper's Figures 2 and 14. Exact and learned velocity, three critics, closed-form truth: the law
of every estimator's samples by quadrature, over weights, steps and mode separation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

from qgf_ref.studies.base import Outcome, StudySettings
from qgf_ref.studies.didactic.divergence import divergence, divergence_text
from qgf_ref.studies.didactic.divergence_figures import divergence_figure
from qgf_ref.studies.didactic.figures import AXES, METRICS, curves, densities, panels
from qgf_ref.studies.didactic.learned_flow import QUICK_UPDATES, UPDATES, learned_flow
from qgf_ref.studies.didactic.runs import Case, Laboratory, default_estimators, table
from qgf_ref.studies.didactic.words import claims, claims_text, law_tables
from qgf_ref.studies.shared.scenes import FORMULAS, TRIMODAL

PANEL_COLUMNS = ("none", "bptt", "ood", "qgf")
"""The paper's Figure 2."""


@dataclass(frozen=True)
class Grid:
    """What is run.

    points      quantiles that stand for a law
    updates     of the learned velocity
    weights     w of the curves over w; shown, those of tables and panels
    steps       T of the curves over T, at w = middle
    few, many   T of the curves over w: `few` is the paper's, `many` near the continuous flow
    separations of the curves over the modes' separation, at w = middle and T = many
    """

    points: int = 500
    updates: int = UPDATES
    weights: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    shown: tuple[float, ...] = (0.1, 0.5, 2.0, 8.0)
    panels: tuple[float, ...] = (0.5, 2.0, 8.0)
    middle: float = 2.0
    steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)
    few: int = 10
    many: int = 50
    separations: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


QUICK = Grid(
    points=250,
    updates=QUICK_UPDATES,
    weights=(0.1, 0.5, 2.0, 8.0),
    steps=(1, 2, 5, 10, 20),
    many=20,
    separations=(0.5, 1.0, 1.5),
)


def study(settings: StudySettings) -> Outcome:
    """Run it: under 5 minutes, quick under 45 s on 2 cores. Raises InputError on an estimator."""
    return study_on(QUICK if settings.quick else Grid(), settings)


def study_on(grid: Grid, settings: StudySettings) -> Outcome:
    """`study` on any grid."""
    names = settings.estimators or default_estimators()
    Laboratory.of(None, names, grid.points)  # unknown names, before the network is trained
    net = learned_flow(TRIMODAL, updates=grid.updates, seed=settings.seed)
    lab = Laboratory.of(net, names, grid.points)
    laws = lab.laws(_cases(grid, lab))
    found = claims(laws, grid.weights, (grid.few, grid.many))
    diverging = divergence(lab, grid.few, max(grid.shown), grid.separations)
    figures = {
        f"{over}_{metric}": curves(laws, metric, over, grid) for over in AXES for metric in METRICS
    }
    figures["divergence"] = divergence_figure(diverging)
    for field in ("exact", "learned"):
        columns = _columns(lab, field, grid)
        if columns:
            figures[f"panels_{field}"] = panels(lab, field, columns, grid)
    for critic in FORMULAS:
        figures[f"densities_{critic}"] = densities(lab, critic, grid)
    text = "\n\n".join(
        [
            "Distance of every estimator's law to the exact tilted law π ∝ π̂·exp(w·Q): three modes "
            "at −2, 0, 1,\nsd 0.15. W1 in units of the action; KL(ρ ‖ π) in nats, at most "
            "log 100 = 4.61.",
            *law_tables(laws, grid),
            claims_text(found),
            divergence_text(diverging),
        ]
    )
    details = {"grid": asdict(grid), "claims": found, "divergence": diverging.numbers}
    return Outcome(text, {"": table(laws), "divergence": diverging.rows}, figures, details)


def _columns(lab: Laboratory, field: str, grid: Grid) -> list[str]:
    """The panels' estimators: the paper's four, or the first four of others that run."""
    case = Case(field, "distance", "", grid.middle, grid.many)
    able = [name for name in lab.estimators if lab.runs(replace(case, estimator=name))]
    return [name for name in PANEL_COLUMNS if name in able] or able[:4]


def _cases(grid: Grid, lab: Laboratory) -> Iterator[Case]:
    for critic, name in product(FORMULAS, lab.estimators):
        for weight in grid.weights:
            yield Case("exact", critic, name, weight, grid.many)
            yield Case("exact", critic, name, weight, grid.few)
            yield Case("learned", critic, name, weight, grid.few)
        for steps in grid.steps:
            yield Case("exact", critic, name, grid.middle, steps)
            yield Case("learned", critic, name, grid.middle, steps)
        for separation in grid.separations:
            yield Case("exact", critic, name, grid.middle, grid.many, separation)
    for field in ("exact", "learned"):
        for name, weight in product(_columns(lab, field, grid), grid.panels):
            yield Case(field, "distance", name, weight, grid.many)
