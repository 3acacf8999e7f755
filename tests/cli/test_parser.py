"""What the command line says to a flag, a name or a file that is not there, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from qgf_ref.cli.main import GROUPS, main, parser
from qgf_ref.errors import nearest_first


def commands() -> dict[str, argparse.ArgumentParser]:
    (sub,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(sub.choices)


@pytest.mark.parametrize(
    ("line", "usage", "says"),
    [
        ("train x --lr 3e-4", "usage: qgf-ref train ", "--lr 3e-4; did you mean --learning-rate?"),
        ("audit --checkpont x", "usage: qgf-ref audit ", "did you mean --checkpoint?"),
        ("evaluate --best_of 4", "usage: qgf-ref evaluate ", "did you mean --best-of?"),
        ("audit --device cuda", "usage: qgf-ref audit ", "for a GPU give --backend cupy"),
        ("explain --backend=cupy", "usage: qgf-ref explain ", "this command computes on the CPU"),
        (
            "explain --backend cupy:tf32",
            "usage: qgf-ref explain ",
            "this command computes on the CPU",
        ),
        ("estimators --zzz", "usage: qgf-ref estimators ", "arguments: --zzz\n"),
        ("audti", "usage: qgf-ref [-h]", "invalid choice: 'audti' (choose from audit, "),
        ("train --preset papr", "usage: qgf-ref train ", "(choose from paper, small)"),
        ("--zzz audit", "usage: qgf-ref [-h]", "arguments: --zzz\n"),
    ],
)
def test_what_was_meant(
    line: str, usage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    answer = capsys.readouterr().err
    assert answer.startswith(usage)
    assert says in answer


@pytest.mark.parametrize("name", [None, *commands()])
def test_help_fits_and_tells_defaults(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    command = parser() if name is None else commands()[name]
    text = command.format_help()
    assert max(map(len, text.splitlines())) <= 100
    for action in command._actions:
        if isinstance(action.default, Path):
            assert str(action.default) in text, f"{name} {action.dest}: no default in its help"


def test_help_lists_every_command() -> None:
    assert sum(map(len, GROUPS.values())) == len(commands())
    text = parser().format_help()
    for name, command in commands().items():
        assert f"\n  {name} " in text
        assert command.description


def test_the_nearest_names_come_first() -> None:
    assert nearest_first("qfg", ("bptt", "none", "qgf")) == ["qgf", "bptt", "none"]
    assert nearest_first("zzz", ("qgf", "bptt")) == ["bptt", "qgf"]


@pytest.mark.parametrize("line", ["train --resume nowhere", "train --config nowhere.json"])
def test_a_missing_file_is_told_in_words(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    answer = capsys.readouterr().err
    assert "No such file or directory" in answer
    assert "Errno" not in answer
