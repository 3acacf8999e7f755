"""What every study receives, returns and leaves on disk."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.backends.engine import backend_named
from qgf_ref.errors import InputError, reason
from qgf_ref.files import (
    csv_bytes,
    read_csv,
    require_writable,
    user_path,
    write_atomically,
    write_json,
)
from qgf_ref.guidance.registry import ALIASES
from qgf_ref.plotting import pdf, png
from qgf_ref.provenance import provenance
from qgf_ref.tables import text_table
from qgf_ref.threads import one_blas_thread

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
    backend      that samples the trained agents' actions; None: numba for episodes, else numpy
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
    backend: str | None = None
    records: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be ≥ {least}, got {getattr(self, name)}")
        if self.backend is not None:
            backend_named(self.backend)
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
            **({} if self.backend is None else {"backend": self.backend}),
        }


@dataclass(frozen=True)
class StudyOutcome:
    """What a study measured.

    text     tables of at most 100 columns and what they say, to be printed
    tables   by name: every number behind the figures, in long form (one value or one estimate with
             its interval a row); the table named "" is the study's main one
    details  JSON: further settings, and the numbers that the text and pages quote
    """

    text: str
    tables: Mapping[str, Rows]
    details: Mapping[str, Any] = field(default_factory=dict)


class Study(NamedTuple):
    """A study: what measures, with a progress bar, and what draws.

    figures  of the tables and the JSON as they were written: (tables by name, JSON) → by name
    """

    run: Callable[[StudySettings], StudyOutcome]
    figures: Callable[[Mapping[str, Rows], Mapping[str, Any]], dict[str, Figure]]


@one_blas_thread()
def run_study(name: str, study: Study, settings: StudySettings, directory: Path) -> list[Path]:
    """Run, write and print a study: study_NAME.json, .txt, .csv, and each figure as .png and .pdf.

    Nothing is written before everything is computed, and everything is written before anything is
    printed: a reader that leaves (`| head`) loses nothing. Raises InputError as the study does, and
    when `directory` cannot be written to. Returns the files.
    """
    directory = user_path(directory)
    about = directory / file_name(name, "", "json")
    require_writable(about)
    start = perf_counter()
    origin = provenance()
    outcome = study.run(settings)
    content = {
        "study": name,
        "settings": settings.describe(),
        "seconds": round(perf_counter() - start, 1),
        "provenance": origin,
        **outcome.details,
    }
    files = [about]
    write_json(about, content)
    texts = {("", "txt"): (outcome.text + "\n").encode()}
    texts |= {(part, "csv"): csv_bytes(rows) for part, rows in outcome.tables.items()}
    for (part, suffix), data in texts.items():
        files.append(directory / file_name(name, part, suffix))
        write_atomically(files[-1], data)
    files += redraw(name, study, directory, directory)
    print(outcome.text)
    return files


def redraw(name: str, study: Study, source: Path, directory: Path) -> list[Path]:
    """Draw a study's figures into `directory` from its tables in `source`; returns the files.

    Raises InputError as `figures_of`.
    """
    files, directory = [], user_path(directory)
    for part, figure in figures_of(name, study, user_path(source)).items():
        for suffix, data in (("png", png(figure)), ("pdf", pdf(figure))):
            files.append(directory / file_name(name, part, suffix))
            write_atomically(files[-1], data)
    return files


def figures_of(name: str, study: Study, source: Path) -> dict[str, Figure]:
    """The figures of a study whose tables and JSON are in `source`.

    Raises InputError when they are not, or are not those of this version's study.
    """
    about, main = (source / file_name(name, "", suffix) for suffix in ("json", "csv"))
    try:
        content = json.loads(about.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {about}, which `qgf-ref study` writes: {reason(error)}"
        ) from error
    paths = sorted(source.glob(f"{main.stem}*.csv"))
    tables = {p.stem.removeprefix(main.stem).removeprefix("_"): read_csv(p) for p in paths}
    try:
        return study.figures(tables, content)
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"cannot draw {name} from the tables in {source} ({error!r}); if another version made "
            f"them, run qgf-ref study {name} again"
        ) from error


def distinct(rows: Rows, *columns: str) -> list[Any]:
    """The values of a column, or the tuples of several columns, in order of appearance."""
    values = (tuple(r[c] for c in columns) if columns[1:] else r[columns[0]] for r in rows)
    return list(dict.fromkeys(values))


def select(rows: Rows, **values: Any) -> list[dict[str, Any]]:
    """The rows that have these values."""
    return [dict(r) for r in rows if all(r.get(name) == v for name, v in values.items())]


def fill(text: str, indent: str = "") -> str:
    """Lines of at most 98 characters, all but the first indented, for `StudyOutcome.text`."""
    return textwrap.fill(
        text, 98, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def by_estimator(
    title: str, rows: Rows, across: str, heading: str = "{}", number: str = "{:.2f}"
) -> str:
    """A line for each estimator, a column for each value of `across`: the mean value there."""
    values = distinct(rows, across)
    body = []
    for label in distinct(rows, "estimator"):
        cells = [select(rows, **{"estimator": label, across: v}) for v in values]
        means = (np.mean([r["value"] for r in c]) if c else None for c in cells)
        body.append([label, *("" if m is None else number.format(m) for m in means)])
    return text_table([title, *(heading.format(v) for v in values)], body, left=(0,))


def page(above: Sequence[str], table: str, below: Sequence[str]) -> str:
    """A table between paragraphs, for `StudyOutcome.text`."""
    return "\n\n".join(("\n".join(map(fill, above)), table, "\n".join(map(fill, below))))


def _name(source: str) -> str:
    """Without the directories that are the machine's own business."""
    return "/".join(Path(source).parts[-2:])


def file_name(study: str, part: str, suffix: str) -> str:
    """study_NAME.csv, or study_NAME_PART.csv; _ for what a file's name had better not contain."""
    stem = re.sub(r"[^\w.]", "_", f"study_{study}_{part}" if part else f"study_{study}")
    return f"{stem}.{suffix}"
