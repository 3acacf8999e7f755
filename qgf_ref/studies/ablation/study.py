"""The clean 2×2 ablation: clip mask or not × Jacobian or not.

The published "QGF-Jacobian" ablation is confounded: its J holds the clip's mask, which `qgf` does
not have. Here the four combinations are compared on closed-form flows (bias, spread, distance to
the exact law) and on trained checkpoints (gradients, variance, success).
Source: method.md, section 3.
"""

from __future__ import annotations

from qgf_ref.errors import InputError
from qgf_ref.evaluation.settings import HELD_OUT
from qgf_ref.progress import progress
from qgf_ref.studies.ablation.closed_form import ClosedFormSize, closed_form
from qgf_ref.studies.ablation.factors import EFFECTS, FOUR
from qgf_ref.studies.ablation.trained_networks import METHODS, gradients, success_rows
from qgf_ref.studies.ablation.words import report
from qgf_ref.studies.base import StudyOutcome, StudySettings, select
from qgf_ref.studies.shared.episodes import EpisodePlan, note, play
from qgf_ref.studies.shared.trained import interval_over

PLAN = EpisodePlan(16, 96, (0.01, 0.03, 0.1, 0.3))
QUICK_PLAN = EpisodePlan(8, 8, (0.03, 0.1))
QUICK_SIZE = ClosedFormSize(reaches=(0.7, 1.4), scenes=4, rows=64, draws=4, samples=400)


def study(settings: StudySettings) -> StudyOutcome:
    """`qgf-ref study ablation`. Raises InputError on settings.estimators: the four are the study;
    and as `observations` and `play`.
    """
    if settings.estimators is not None:
        raise InputError(f"the ablation compares {', '.join(FOUR)}: it takes no --estimators")
    quick = settings.quick
    size = QUICK_SIZE if quick else ClosedFormSize()
    with progress(size.stages + len(settings.checkpoints) * 5, "stage") as job:
        # first: what is wrong with the checkpoints or the data is told at once
        trained = gradients(settings, rows=48 if quick else 256, draws=3 if quick else 6, job=job)
        exact = closed_form(size, settings.seed, job)
    plan = QUICK_PLAN if quick else PLAN
    evaluation = play(settings, METHODS, plan)
    played = success_rows(evaluation)
    over = interval_over(settings)
    held_out = select(played, split=HELD_OUT)
    return StudyOutcome(
        report(size.scenes, exact, over, trained, note(settings, plan), played),
        {"": played, "closed_form": exact, "gradients": trained},
        {
            "scenes": size.scenes,
            "intervals": over,
            "episodes": {"selection": plan.selection, "held_out": plan.held_out},
            "effects": {r["term"]: r["value"] for r in held_out if r["term"] in EFFECTS},
        },
    )
