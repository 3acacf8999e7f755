"""qgf-ref evaluate, end to end on a task that takes milliseconds."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from qgf_ref.cli import evaluate
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint

TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    args = parser.parse_args(["evaluate", *words])
    return args.run(args)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_episodes: None) -> Path:
    """A directory with two checkpoints for the maze."""
    for seed in range(2):
        ck = small_checkpoint(seed, obs_dim=2, action_dim=40)
        ck = replace(ck, options=replace(ck.options, horizon_length=20))
        save_checkpoint(ck, tmp_path / f"{seed}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ("--task", TASK, "--episodes", "2", "--selection-episodes", "2", "--envs", "2")


def test_end_to_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--checkpoint", "0.safetensors", "1.safetensors")
    words = (*files, *SMALL, "--methods", "bc", "qgf", "--weights", "0.1", "1", "--out", "out")
    assert command(*words) == 0
    first = (place / "out" / "episodes.csv").read_bytes()
    printed = capsys.readouterr().out
    assert "Next: " in printed
    assert max(map(len, printed.splitlines())) <= 100
    content = json.loads((place / "out" / "evaluation.json").read_text())
    assert [len(r["by_checkpoint"]) for r in content["rows"]] == [2, 2]
    # again: from the records alone, the same bytes
    assert command(*words) == 0
    assert (place / "out" / "episodes.csv").read_bytes() == first
    with pytest.raises(InputError, match=r"other environments \(2 there, 1 here\).*--overwrite"):
        command(*words, "--envs", "1")


def test_what_is_stopped_says_once_what_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qgf_ref.evaluation.protocol.evaluate", stopped)
    assert main(["evaluate", "--checkpoint", "0.safetensors", *SMALL, "--out", "out"]) == 130
    said = capsys.readouterr().err
    assert said == "stopped; finished groups are kept in out: give the same command to go on\n"


def test_estimators_with_best_of(place: Path) -> None:
    words = ("--checkpoint", "0.safetensors", *SMALL, "--estimators", "ood", "--best-of", "2")
    assert command(*words, "--weights", "0.1", "--out", "out") == 0
    content = json.loads((place / "out" / "evaluation.json").read_text())
    assert [r["method"] for r in content["rows"]] == ["ood+bfn-2"]


def test_backend_and_threads(place: Path) -> None:
    words = ("--checkpoint", "0.safetensors", *SMALL, "--methods", "bc", "--out", "out")
    assert command(*words, "--backend", "numba", "--threads", "2") == 0
    content = json.loads((place / "out" / "evaluation.json").read_text())
    assert (content["settings"]["backend"], content["settings"]["threads"]) == ("numba", 2)
    with pytest.raises(InputError, match=r"another backend \(numba there, numpy here\)"):
        command(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "cube-single"), "unknown task"),
        (("--methods", "qfg"), "unknown method 'qfg'"),
        (("--estimators", "bc", "qgf", "qgf"), "given twice"),
        (("--methods", "bc", "--estimators", "qgf"), "either --methods, or --estimators"),
        (("--best-of", "4"), "goes with --estimators"),
        (("--weights", "-1"), "≥ 0, got -1.0"),
        (("--weights", "nan"), "got nan"),
        (("--episodes", "0"), "episodes must be ≥ 1"),
        (("--workers", "0"), "workers must be ≥ 1"),
        (("--gradient-steps", "-1"), "must be ≥ 0"),
        (("--backend", "jax"), "unknown backend 'jax'.*numba, numpy"),
        (("--threads", "2"), "is for backend numba"),
        (("--gif-method", "bc"), "goes with --gif"),
        (("--gif", "a.gif", "--gif-method", "qgf_chain"), "one of those evaluated: bc, bfn-4"),
        (("--gif", "nowhere/a.gif"), "there is no directory"),
        (("--task", "cube-single-play-singletask-task1-v0"), r"observations of 2 .*\(28,\)"),
    ],
)
def test_bad_input(words: tuple[str, ...], message: str, place: Path) -> None:
    with pytest.raises(InputError, match=message):
        command("--checkpoint", "0.safetensors", *SMALL, *words)


def test_the_task_of_another_checkpoint_is_asked_for(place: Path) -> None:
    with pytest.raises(InputError, match="give --task"):
        command("--checkpoint", "0.safetensors")
