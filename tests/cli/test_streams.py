"""A reader that leaves, a full disk, a closed stream never costs the result."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.cli.output import LastingStream, as_json
from tests.helpers.bad_input import TRACE


class Left(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        self.write("")


@pytest.mark.parametrize(
    ("number", "code", "said"), [(errno.EPIPE, 141, ""), (errno.ENOSPC, 2, "cannot print")]
)
def test_a_command_whose_reader_has_left_writes_all(
    number: int, code: int, said: str, place: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    commands = {
        TRACE: ["out.npz"],
        "convert model.safetensors copy.npz": ["copy.npz"],
        "explain --checkpoint model.safetensors --obs in.npz": [],
        "estimators": [],
        "study": [],
        "audit --checkpoint model.safetensors --obs in.npz --estimators qgf --out report": [
            "report/report.html", "report/report.json",
        ],
    }  # fmt: skip
    for line, written in commands.items():
        monkeypatch.setattr(sys, "stdout", Left(number))
        assert main(line.split()) == code, line
        assert all((place / name).exists() for name in written), line
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == bool(said), line


STUB = """
import sys
from qgf_ref.studies import registry
from qgf_ref.studies.base import Study, StudyOutcome
from qgf_ref.cli.main import main
text = "a line of a table\\n" * 20_000
outcome = StudyOutcome(text, {"": [{"a": 1}]})
registry.study = lambda name: Study(lambda settings: outcome, lambda tables, about: {})
sys.exit(main(["study", "didactic", "--out", sys.argv[1]]))
"""


def test_a_study_piped_to_head_loses_nothing(tmp_path: Path) -> None:
    script = f"'{sys.executable}' -c \"$STUB\" '{tmp_path}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "STUB": STUB}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["a line of a table", "141"]
    assert done.stderr == ""
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"study_didactic.{suffix}" for suffix in ("json", "txt", "csv")}


def test_closed_streams(tmp_path: Path) -> None:
    script = f"'{sys.executable}' -m qgf_ref estimators >&- 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_a_lasting_stream_keeps_the_first_error() -> None:
    stream = LastingStream(Left(errno.EPIPE))
    assert stream.write("text") == 4
    stream.flush()
    assert isinstance(stream.error, BrokenPipeError)
    assert LastingStream(None).write("x") == 1


def test_json_takes_what_results_hold() -> None:
    result = {"a": np.arange(2), "b": (np.float32(0.5), float("inf")), "c": Path("x"), 3: {None}}
    assert json.loads(as_json(result)) == {"a": [0, 1], "b": [0.5, "inf"], "c": "x", "3": [None]}
