"""qgf-ref train: flags, configuration files, exit codes, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qgf_ref
from qgf_ref.cli.main import main
from tests.data.synthetic import TASK, write_dataset

SMALL = "--updates 4 --batch 5 --hidden 4 4 --horizon-length 2 --log-every 2 --checkpoint-every 2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def test_trains_resumes_and_says_what_is_next(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", TASK, "--data", str(data), *SMALL.split()]) == 0
    place = f"qgf_runs/{TASK}/seed0"
    out = capsys.readouterr().out
    assert f"Next: qgf-ref evaluate --checkpoint {place}" in out
    assert "update 4" in out
    assert qgf_ref.load(place).options.horizon_length == 2
    assert main(["train", "--resume", place, "--updates", "6"]) == 0
    assert "6 updates" in capsys.readouterr().out


def test_configuration_file_and_flags(data: Path, tmp_path: Path) -> None:
    assert main(["train", TASK, "--data", str(data), *SMALL.split(), "--out", f"{tmp_path}/a"]) == 0
    settings = json.loads((tmp_path / "a" / "train.json").read_text())["config"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = ["train", "--config", str(tmp_path / "settings.json"), "--out", f"{tmp_path}/b"]
    assert main([*command, "--seed", "3"]) == 0
    other = json.loads((tmp_path / "b" / "train.json").read_text())["config"]
    assert other == settings | {"seed": 3}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "which task?"),
        ("cube-single-play-singletask-task9-v0", "unknown task"),
        (f"{TASK} --data nowhere.npz", "no data set at .*nowhere.npz"),
        (f"{TASK} --data D --batch 0", "batch must be at least 1"),
        (f"{TASK} --data D --activation gleu", "unknown activation"),
        (f"{TASK} --data D --config none.json", "cannot read none.json"),
        (f"{TASK} --preset small --config none.json", "not both"),
        ("--resume nothing", "nothing holds no training run"),
        ("--resume nothing --batch 3", "only --updates and --data may change, not --batch"),
        (f"{TASK} --resume nothing", "only --updates and --data may change, not TASK"),
        ("cube-single-play-singletask-task1-v0 --data D", "data set is cube-single-play-v0"),
        (f"{TASK} --data D --out taken", "taken"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(
    command: str, message: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import re

    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("not a directory")
    given = [str(data) if part == "D" else part for part in command.split()]
    assert main(["train", *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_help_states_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for shown in (
        "default: 256 256 256",
        "default: 0.0003",
        "--flow-times {grid,uniform}",
        "T, Eu",
    ):
        assert shown in text


def test_evaluate_knows_the_task_of_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", TASK, "--data", str(data), *SMALL.split(), "--out", str(run)]) == 0
    command = f"evaluate --checkpoint {run} --methods bc --episodes 1 --out {tmp_path}/out"
    assert main(command.split()) == 0
    assert f"task {TASK}" in capsys.readouterr().out
