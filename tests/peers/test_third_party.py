"""Samplers of public repositories, fetched at pinned commits; see benchmarks/ports.

The slow cases run other people's code. They skip, saying so, where it cannot be had: without a
network, set QGF_REF_PORTS to a folder with clones OWNER/NAME.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.ports import MODULES
from benchmarks.ports.sources import CLONES, NoSource, Source, importing
from benchmarks.ports.trials import clauses, outcome

pytest.importorskip("torch")
pytest.importorskip("flax")
pytestmark = pytest.mark.peers


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "quick_compilation")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MODULES)
def test_their_samplers_agree_or_get_the_right_name(name: str, tmp_path: Path) -> None:
    try:
        trials = import_module(f"benchmarks.ports.{name}").trials(tmp_path)
    except NoSource as error:
        pytest.skip(str(error))
    assert clauses(trials[0].flow, trials[0].obs) >= 16
    for trial in trials:
        assert outcome(trial).names == trial.expected, (trial.samples, trial.against)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A clone with one commit on this machine, and what is pinned of it."""
    clone = tmp_path / "clones" / "somebody" / "port"
    (clone / "src").mkdir(parents=True)
    (clone / "src" / "model.py").write_text("T = 7\n")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    monkeypatch.setenv(CLONES, str(tmp_path / "clones"))
    digest = hashlib.sha256(b"T = 7\n").hexdigest()
    return Source("somebody/port", head.stdout.strip(), "src", {"model.py": digest})


def test_other_bytes_than_the_pinned_are_refused(source: Source, tmp_path: Path) -> None:
    assert (source.written(tmp_path) / "model.py").read_text() == "T = 7\n"
    with pytest.raises(ValueError, match=r"model\.py is not the file of commit"):
        replace(source, files={"model.py": "0" * 64}).written(tmp_path)
    with pytest.raises(NoSource, match="git -C"):
        replace(source, commit="0" * 40).written(tmp_path)


def test_their_modules_are_forgotten_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import words\nT = words.T\n")
    (tmp_path / "words.py").write_text("T = 7\n")
    with importing(tmp_path):
        model = import_module("model")
    assert model.T == 7 and not {"model", "words"} & set(sys.modules)
    assert str(tmp_path) not in sys.path
