"""Bias and variance of every estimator against the exact guidance, and the Jacobian's boundary.

States are drawn from the exact marginals of the tilted law, where the ideal sampler goes; g* there
is the exact guidance of exact v and Q (method.md, section 6). Errors of v and Q are Gaussian
processes of known size and length scale (`qgf_ref.flow.perturbed`). No action bound, so that the
clip's mask plays no part: `qgf_masked` is `qgf`, `qgf_jacobian_unmasked` is `qgf_jacobian`.
"""

from __future__ import annotations

from collections.abc import Sequence

from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.progress import tracked
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.bias_variance.sweeps import QUICK, Row, SweepSize, cells
from qgf_ref.studies.bias_variance.words import report

DEFAULT = (
    "ood",
    "qgf",
    "qgf_chain",
    "bptt",
    "qgf_jacobian",
    "qgf_jacobian_scheduled",
    "qgf_covariance",
    "qgf_shifted",
)


def study(settings: StudySettings) -> StudyOutcome:
    """Run it. Raises InputError when `oracle`, which is the reference, is among the estimators."""
    size = QUICK if settings.quick else SweepSize()
    chosen = _estimators(settings.estimators)
    tables: dict[str, list[Row]] = {
        name: [] for name in ("", "boundary", "phase", "curl", "samples")
    }
    every = list(cells(size, chosen, settings.seed))
    for table, compute in tracked(every, len(every), "cell"):
        tables[table] += compute()
    text, details = report(size, tables)
    return StudyOutcome(text, tables, details)


def _estimators(names: Sequence[str] | None) -> list[Estimator]:
    if names is None:
        names = [name for name in DEFAULT if name in estimator_names()]
    chosen = [estimator(name) for name in dict.fromkeys(names)]
    if any(e.label == "oracle" for e in chosen):
        raise InputError("the oracle is what the others are compared with: leave it out")
    return chosen
