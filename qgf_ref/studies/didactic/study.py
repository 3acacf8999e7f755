"""`qgf-ref study didactic`: three modes in one dimension, every estimator against the exact π.

The paper's Figures 2 and 14. Exact and learned velocity, three critics, closed-form truth: the law
of every estimator's samples by quadrature, over weights, steps and mode separation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product

from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.didactic.divergence import divergence
from qgf_ref.studies.didactic.learned_flow import learned_flow
from qgf_ref.studies.didactic.runs import (
    QUICK,
    DidacticGrid,
    Laboratory,
    LawCase,
    default_estimators,
    density_table,
    panel_columns,
    path_table,
    table,
)
from qgf_ref.studies.didactic.words import claims, claims_text, divergence_text, law_tables
from qgf_ref.studies.shared.scenes import FORMULAS, TRIMODAL


def study(settings: StudySettings) -> StudyOutcome:
    """Run it: under 5 minutes, quick under 45 s on 2 cores. Raises InputError on an estimator."""
    return study_on(QUICK if settings.quick else DidacticGrid(), settings)


def study_on(grid: DidacticGrid, settings: StudySettings) -> StudyOutcome:
    """`study` on any grid."""
    names = settings.estimators or default_estimators()
    Laboratory.of(None, names, grid.points)  # unknown names, before the network is trained
    net = learned_flow(TRIMODAL, updates=grid.updates, seed=settings.seed)
    lab = Laboratory.of(net, names, grid.points)
    panels = list(_panels(grid, lab))
    laws = lab.laws([*_cases(grid, lab), *panels])
    verdicts = claims(laws, grid.weights, (grid.few, grid.many))
    diverging = divergence(lab, grid.few, max(grid.shown), grid.separations)
    text = [
        "Distance of every estimator's law to the exact tilted law π ∝ π̂·exp(w·Q): three modes "
        "at −2, 0, 1,\nsd 0.15. W1 in units of the action; KL(ρ ‖ π) in nats, at most "
        "log 100 = 4.61.",
        *law_tables(laws, grid),
        claims_text(verdicts),
        divergence_text(diverging),
    ]
    densities = [
        LawCase("exact", critic, name, weight, grid.many)
        for critic, name, weight in product(FORMULAS, lab.estimators, grid.panels)
    ]
    return StudyOutcome(
        "\n\n".join(text),
        {
            "": table(laws),
            "divergence": diverging.rows,
            "densities": density_table(lab, dict.fromkeys([*densities, *panels])),
            "paths": path_table(lab, panels),
            **diverging.tables(),
        },
        {"grid": asdict(grid), "claims": verdicts, "divergence": diverging.numbers},
    )


def _panels(grid: DidacticGrid, lab: Laboratory) -> Iterator[LawCase]:
    """Those of the paper's Figure 2, on both fields."""
    for field in ("exact", "learned"):
        for name, weight in product(_columns(lab, field, grid), grid.panels):
            yield LawCase(field, "distance", name, weight, grid.many)


def _columns(lab: Laboratory, field: str, grid: DidacticGrid) -> list[str]:
    """The panels' estimators: the paper's four, or the first four of others that run."""
    case = LawCase(field, "distance", "", grid.middle, grid.many)
    able = [name for name in lab.estimators if lab.runs(case._replace(estimator=name))]
    return panel_columns(able)


def _cases(grid: DidacticGrid, lab: Laboratory) -> Iterator[LawCase]:
    for critic, name in product(FORMULAS, lab.estimators):
        for weight in grid.weights:
            yield LawCase("exact", critic, name, weight, grid.many)
            yield LawCase("exact", critic, name, weight, grid.few)
            yield LawCase("learned", critic, name, weight, grid.few)
        for steps in grid.steps:
            yield LawCase("exact", critic, name, grid.middle, steps)
            yield LawCase("learned", critic, name, grid.middle, steps)
        for separation in grid.separations:
            yield LawCase("exact", critic, name, grid.middle, grid.many, separation)
