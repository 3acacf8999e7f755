"""The studies by name. A study is imported when it is run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from qgf_ref.errors import unknown_name
from qgf_ref.studies.base import Study


@dataclass(frozen=True)
class Entry:
    """summary, for the list of studies; trained, whether it needs checkpoints; paper, the figures
    that it reproduces.
    """

    summary: str
    trained: bool
    paper: str = ""


STUDIES: dict[str, Entry] = {
    "didactic": Entry(
        "three modes in one dimension: every estimator against the exact tilted law",
        trained=False,
        paper="Fig 2, 14",
    ),
    "bias-variance": Entry(
        "bias and variance of every estimator, and when dropping the Jacobian wins", trained=False
    ),
    "ablation": Entry("clip mask or not, Jacobian or not: the clean 2×2 comparison", trained=True),
    "correction": Entry(
        "the exact correction, step by step: schedule, covariance, curvature", trained=False
    ),
    "noise": Entry("sensitivity of G to noise in a_t", trained=True, paper="Fig 3"),
    "q-optimizer": Entry(
        "Q of the final action beside the success rate", trained=True, paper="Fig 4, 15"
    ),
    "compute": Entry(
        "FLOPs and time against success: BFN-N, GradStep, QGF, QGF+BFN",
        trained=True,
        paper="Fig 6, 7",
    ),
    "ood-distance": Entry(
        "how far guided actions are from the best-of-N action and from the data",
        trained=True,
        paper="Fig 17",
    ),
    "weights": Entry("success against the guidance weight", trained=True, paper="Fig 20"),
}


def study(name: str) -> Study:
    """The function `study` of qgf_ref.studies.NAME.study. Raises InputError on an unknown name."""
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    module = importlib.import_module(f"qgf_ref.studies.{name.replace('-', '_')}.study")
    return cast(Study, module.study)
