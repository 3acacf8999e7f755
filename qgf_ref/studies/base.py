"""What every study receives, returns and leaves on disk."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from matplotlib.figure import Figure

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.errors import InputError
from qgf_ref.files import csv_bytes, require_writable, write_atomically, write_json
from qgf_ref.guidance.registry import ALIASES
from qgf_ref.plotting import pdf, png
from qgf_ref.provenance import provenance

Rows = Sequence[Mapping[str, Any]]
"""A table: one mapping from column to value for each row."""


@dataclass(frozen=True)
class StudySettings:
    """What a study is run with.

    quick        a smaller version, under a minute, that shows the same in outline
    seed         of everything random: the same seed gives the same numbers
    estimators   instead of the study's own; names, or package.module:function
    checkpoints  trained agents, one for each training seed of the same task; empty for studies of
                 closed-form flows
    task         OGBench task to play in; None: what the checkpoint was trained for
    data         the data set, an npz file or directory, for studies that compare with it
    workers      processes that play episodes
    records      directory for finished groups of episodes, so that a study that was stopped goes
                 on where it was (`qgf_ref.evaluation.protocol.evaluate`); None: none are kept
    """

    quick: bool = False
    seed: int = 0
    estimators: tuple[str, ...] | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    task: str | None = None
    data: str | None = None
    workers: int = 2
    records: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be ≥ {least}, got {getattr(self, name)}")
        if self.estimators is not None and not self.estimators:
            raise InputError("no estimator to study: give at least one, e.g. qgf")
        # its numbers would count as those of another checkpoint, or of another draw
        names = [ALIASES.get(name, name) for name in self.estimators or ()]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(f"the estimator {name} is given twice")

    def describe(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {
            "quick": self.quick,
            "seed": self.seed,
            "estimators": None if self.estimators is None else list(self.estimators),
            "checkpoints": [_name(c.source) for c in self.checkpoints],
            "task": self.task,
            "data": None if self.data is None else Path(self.data).name,
        }


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    text     tables of at most 100 columns and what they say, to be printed
    tables   by name: every number behind the figures, in long form (one value or one estimate with
             its interval a row); the table named "" is the study's main one
    figures  by name
    details  JSON: further settings, and the numbers that the text and pages quote
    """

    text: str
    tables: Mapping[str, Rows]
    figures: Mapping[str, Figure]
    details: Mapping[str, Any] = field(default_factory=dict)


class Study(Protocol):
    """A study's entry point."""

    def __call__(self, settings: StudySettings) -> Outcome:
        """Run it, with a progress bar."""
        ...


def run_study(name: str, study: Study, settings: StudySettings, directory: Path) -> list[Path]:
    """Run, print and write a study: study_NAME.json, .txt, .csv, and each figure as .png and .pdf.

    Nothing is written before everything is computed. Raises InputError as the study does, and when
    `directory` cannot be written to. Returns the files.
    """
    require_writable(directory / file_name(name, "", "json"))
    start = perf_counter()
    origin = provenance()
    outcome = study(settings)
    seconds = perf_counter() - start
    print(outcome.text)
    files: list[Path] = []

    def write(part: str, suffix: str, data: bytes) -> None:
        files.append(directory / file_name(name, part, suffix))
        write_atomically(files[-1], data)

    for part, figure in outcome.figures.items():
        write(part, "png", png(figure))
        write(part, "pdf", pdf(figure))
    for part, rows in outcome.tables.items():
        write(part, "csv", csv_bytes(rows))
    write("", "txt", (outcome.text + "\n").encode())
    files.append(directory / file_name(name, "", "json"))
    content = {
        "study": name,
        "settings": settings.describe(),
        "seconds": round(seconds, 1),
        "provenance": origin,
        **outcome.details,
    }
    write_json(files[-1], content)
    return files


def fill(text: str) -> str:
    """Lines of at most 100 characters, for `Outcome.text`."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _name(source: str) -> str:
    """Without the directories that are the machine's own business."""
    return "/".join(Path(source).parts[-2:])


def file_name(study: str, part: str, suffix: str) -> str:
    """study_NAME.csv, or study_NAME_PART.csv."""
    stem = f"study_{study}".replace("-", "_")
    return f"{stem}_{part}.{suffix}" if part else f"{stem}.{suffix}"
