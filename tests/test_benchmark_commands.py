"""The commands of benchmarks/ end as qgf-ref does: a sentence and an exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import all as every
from benchmarks import check as again
from benchmarks import command
from benchmarks.check import Allowed, CannotMake, Sample
from benchmarks.result_list import Result
from qgf_ref.errors import InputError

FOLDER = Path(command.__file__).parent
COMMANDS = sorted(p.name for p in FOLDER.glob("*.py") if "__main__" in p.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_so(name: str) -> None:
    _, end = (FOLDER / name).read_text().split('if __name__ == "__main__":')
    assert "sys.exit(ended(main))" in end


def test_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/all.py"])

    def raising(error: BaseException) -> int:
        raise error

    assert command.ended(lambda: None) == 0
    assert command.ended(lambda: 1) == 1
    assert command.ended(lambda: raising(InputError("no such result"))) == 2
    assert capsys.readouterr().err == "all.py: no such result\n"
    assert command.ended(lambda: raising(FileNotFoundError(2, "not there", "x.json"))) == 2
    assert capsys.readouterr().err == "all.py: x.json: not there\n"
    assert command.ended(lambda: raising(KeyboardInterrupt("stopped in speed"))) == 130
    assert capsys.readouterr().err == "stopped in speed\n"
    with pytest.raises(ZeroDivisionError):  # a defect is no sentence
        command.ended(lambda: raising(ZeroDivisionError()))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_child_ends_in_its_own_way(tmp_path: Path) -> None:
    """Also where only its parent was told."""
    child = tmp_path / "child.py"
    child.write_text(
        "import sys, time\nopen('begun', 'w').close()\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    open('saved', 'w').close()\n"
    )
    parent = (  # a shell's background jobs inherit that Ctrl-C is ignored
        "import signal, sys; from pathlib import Path; from benchmarks import command as c; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "c.PATIENCE = 0.1; sys.argv = ['all.py']; "
        f"line = [sys.executable, {str(child)!r}]; "
        "sys.exit(c.ended(lambda: c.code_of(line, Path.cwd())))"
    )
    environment = {"PYTHONPATH": str(FOLDER.parent)}
    line = [sys.executable, "-c", parent]
    with subprocess.Popen(
        line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said == "interrupted; no file is left half written\n"
    assert (tmp_path / "saved").exists()


def test_all_says_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = tuple(Result(name, (f"python {name}.py",), ("ops",), 1) for name in ("one", "two"))
    monkeypatch.setattr(every, "RESULTS_IN_ORDER", entries)
    monkeypatch.setattr(every, "result", lambda name: None)
    monkeypatch.setattr(every, "MADE", tmp_path / "made.json")
    monkeypatch.setattr(every, "minutes", lambda entry: "1")

    def code_of(line: list[str], cwd: Path) -> int:
        if line[1] == "two.py":
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(every, "code_of", code_of)
    with pytest.raises(KeyboardInterrupt, match="stopped in two; the same command goes on"):
        every.run(["all"], None)
    monkeypatch.setattr(every, "code_of", lambda line, cwd: 0)
    assert every.run(["all"], None) == 0
    assert "one: made already" in capsys.readouterr().out
    (tmp_path / "made.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*made.json .*: remove it"):
        every.run(["all"], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--run speeed", "unknown result 'speeed'; the valid ones are: speed, "),
        ("--again", "--again goes with --run"),
        ("--check --data nowhere", "no data sets at nowhere"),
    ],
)
def test_wrong_lines_of_all(words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["all.py", *words.split()])
    with pytest.raises(InputError, match=message):
        every.main()


def test_a_sample_that_cannot_be_made_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(place: Path, data: str | None) -> tuple[dict[str, float], dict[str, float]]:
        raise CannotMake("qgf-ref study prefix ended with 1")

    same = Allowed(0.0, 0.0, "the same")
    samples = (
        Sample("broken", "all", same, fails),
        Sample("sound", "all", same, lambda place, data: ({"x": 1.0}, {"x": 1.0})),
    )
    monkeypatch.setattr(again, "SAMPLES", samples)
    assert again.check([], None) == 1
    said = capsys.readouterr().out
    assert "FAILED: qgf-ref study prefix ended with 1" in said
    assert "1 values: as kept" in said
