"""Study settings and episodes on the line of tests/evaluation/fakes.py."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.protocol import Cell
from qgf_ref.evaluation.rollouts import Episode
from qgf_ref.evaluation.settings import SELECTION
from qgf_ref.files import csv_bytes, read_csv
from qgf_ref.studies.base import StudyOutcome, StudySettings
from qgf_ref.studies.registry import study
from tests.evaluation.fakes import LineTask, line_checkpoint

FORWARD = "tests.evaluation.test_protocol:forward"
"""Guidance to the right: with enough of it every action is +1 and every episode succeeds."""


def line_settings(
    *estimators: str, seeds: int = 1, kind: str = "", records: Path | None = None
) -> StudySettings:
    """A quick study on the line with `seeds` checkpoints."""
    task: Any = LineTask(kind=kind)
    return StudySettings(
        quick=True,
        estimators=estimators or None,
        checkpoints=tuple(line_checkpoint(i) for i in range(seeds)),
        task=task,
        workers=1,
        records=records,
    )


def drawn(name: str, outcome: StudyOutcome) -> set[str]:
    """The figures of an outcome, by name: of its tables as they come back from the disk."""
    with TemporaryDirectory() as directory:
        tables = {}
        for part, rows in outcome.tables.items():
            path = Path(directory) / f"{part}.csv"
            path.write_bytes(csv_bytes(rows))
            tables[part] = read_csv(path)
    about = {**outcome.details, "settings": {"task": "line", "estimators": None}}
    return set(study(name).figures(tables, json.loads(json.dumps(about))))


def cell(
    method: Method,
    weight: float | None,
    wins: list[bool],
    *,
    reward: float = -5.0,
    split: str = SELECTION,
) -> Cell:
    """A cell of one checkpoint whose episode i succeeds if wins[i]."""
    episodes = tuple(
        Episode(i, win, reward, 5, True, (0,), (-3.0,), (-4.0,), (-4.0,))
        for i, win in enumerate(wins)
    )
    return Cell(method, weight, split, (episodes,), 0.0, 0.0)
