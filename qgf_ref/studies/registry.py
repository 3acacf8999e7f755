"""The studies by name. A study is imported when it is run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from qgf_ref.errors import unknown_name
from qgf_ref.studies.base import Study


@dataclass(frozen=True)
class StudyEntry:
    """summary, for the list of studies; trained, whether it needs checkpoints; paper, the figures
    that it reproduces; samples, whether it runs trained agents' samplers, on a backend; trains,
    whether it trains networks of its own, in a directory that it goes on in.
    """

    summary: str
    trained: bool
    paper: str = ""
    samples: bool = False
    trains: bool = False

    @property
    def on(self) -> str:
        """What it is made on."""
        return "trains its own" if self.trains else "trained" if self.trained else "closed form"


STUDIES: dict[str, StudyEntry] = {
    "didactic": StudyEntry(
        "three modes in one dimension: every estimator against the exact tilted law",
        trained=False,
        paper="Fig 2, 14",
    ),
    "bias-variance": StudyEntry(
        "bias and variance of every estimator, and when dropping the Jacobian wins", trained=False
    ),
    "ablation": StudyEntry(
        "clip mask or not, Jacobian or not: the clean 2×2 comparison", trained=True, samples=True
    ),
    "correction": StudyEntry(
        "the exact correction, step by step: schedule, covariance, curvature", trained=False
    ),
    "prefix": StudyEntry(
        "real-time chunking: with or without the Jacobian, against the exact conditional law",
        trained=False,
    ),
    "noise": StudyEntry("sensitivity of G to noise in a_t", trained=True, paper="Fig 3"),
    "q-optimizer": StudyEntry(
        "Q of the final action beside the success rate",
        trained=True,
        paper="Fig 4, 15",
        samples=True,
    ),
    "compute": StudyEntry(
        "FLOPs and time against success: BFN-N, GradStep, QGF, QGF+BFN",
        trained=True,
        paper="Fig 6, 7",
        samples=True,
    ),
    "ood-distance": StudyEntry(
        "how far guided actions are from the best-of-N action and from the data",
        trained=True,
        paper="Fig 17",
        samples=True,
    ),
    "weights": StudyEntry(
        "success against the guidance weight", trained=True, paper="Fig 20", samples=True
    ),
    "scaling": StudyEntry(
        "success, losses and cost against the networks' width and depth: QGF beside EDP",
        trained=False,
        paper="Fig 9",
        trains=True,
    ),
}


def study(name: str) -> Study:
    """`study` of qgf_ref.studies.NAME.study, and `figures` of the module of that name beside it.

    Raises InputError on an unknown name.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    room = f"qgf_ref.studies.{name.replace('-', '_')}"
    run, draw = (importlib.import_module(f"{room}.{part}") for part in ("study", "figures"))
    return Study(run.study, draw.figures)
