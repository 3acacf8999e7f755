"""The clean 2×2 ablation: clip mask or not × Jacobian or not.

The published "QGF-Jacobian" ablation is confounded: its J holds the clip's mask, which `qgf` does
not have. Here the four combinations are compared on closed-form flows (bias, spread, distance to
the exact law) and on trained checkpoints (gradients, variance, success).
Source: method.md, section 3.
"""

from __future__ import annotations

from tqdm import tqdm

from qgf_ref.errors import InputError
from qgf_ref.evaluation.settings import HELD_OUT
from qgf_ref.studies.ablation.closed_form import closed_form
from qgf_ref.studies.ablation.factors import EFFECTS, FOUR
from qgf_ref.studies.ablation.trained_networks import METHODS, gradients, success_rows
from qgf_ref.studies.ablation.words import report
from qgf_ref.studies.base import StudyOutcome, StudySettings, select
from qgf_ref.studies.shared.episodes import EpisodePlan, note, play
from qgf_ref.studies.shared.trained import interval_over

WEIGHTS = (0.01, 0.03, 0.1, 0.3)
QUICK_WEIGHTS = (0.03, 0.1)
PLAN = EpisodePlan(selection=16, held_out=96)
QUICK_PLAN = EpisodePlan(selection=8, held_out=8)


def study(settings: StudySettings) -> StudyOutcome:
    """`qgf-ref study ablation`. Raises InputError on settings.estimators: the four are the study;
    and as `observations` and `play`.
    """
    if settings.estimators is not None:
        raise InputError(f"the ablation compares {', '.join(FOUR)}: it takes no --estimators")
    quick = settings.quick
    scenes = 4 if quick else 6
    dimensions, reaches = (2, 10), (0.7, 1.4) if quick else (0.8, 1.1, 1.3, 1.5)
    stages = len(dimensions) * len(reaches) * scenes + len(settings.checkpoints) * 5
    with tqdm(total=stages, disable=None, unit="stage") as bar:

        def progress(stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update()

        # first: what is wrong with the checkpoints or the data is told at once
        trained = gradients(
            settings, rows=48 if quick else 256, draws=3 if quick else 6, progress=progress
        )
        exact = closed_form(
            dimensions=dimensions,
            reaches=reaches,
            scenes=scenes,
            rows=64 if quick else 128,
            draws=4 if quick else 6,
            samples=400 if quick else 1000,
            seed=settings.seed,
            progress=progress,
        )
    plan = QUICK_PLAN if quick else PLAN
    evaluation = play(settings, METHODS, QUICK_WEIGHTS if quick else WEIGHTS, plan)
    played = success_rows(evaluation)
    over = interval_over(settings)
    held = select(played, split=HELD_OUT)
    return StudyOutcome(
        report(scenes, exact, over, trained, note(settings, plan), played),
        {"": played, "closed_form": exact, "gradients": trained},
        {
            "scenes": scenes,
            "intervals": over,
            "episodes": {"selection": plan.selection, "held_out": plan.held_out},
            "effects": {r["term"]: r["value"] for r in held if r["term"] in EFFECTS},
        },
    )
