"""qgf-ref bench: arguments, exit codes, what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qgf_ref.cli.main import main, parser

PORT = """
from qgf_ref import sample
def sampler(checkpoint, *, estimator, weight, denoise_steps):
    print("noise on stdout")
    return lambda obs, noise: {body}
"""
RIGHT = (
    "sample(checkpoint.flow, obs, estimator=estimator, weight=weight, noise=noise,"
    " denoise_steps=denoise_steps)"
)
QUICK = "--checkpoint model.safetensors --batch 1 2 --threads 1 --rounds 1 --no-memory --out out"


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["bench", *command.split()])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_a_checkpoint_and_a_peer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my_port.py").write_text(PORT.format(body=RIGHT))
    code, out, _ = run(f"{QUICK} --peer my_port:sampler", capsys)
    assert code == 0
    assert "noise on stdout" not in out
    assert "numba" in out and "numpy" in out and "sampler" in out
    assert "Report: out/bench.md" in out
    assert out.splitlines()[-1].startswith("Next: qgf-ref bench ")
    content = json.loads((place / "out" / "bench.json").read_text())
    assert [list(row["contenders"]) for row in content["rows"]] == [
        ["numba", "numpy", "sampler"]
    ] * 2
    assert content["settings"]["checkpoint"] == "model.safetensors"


@pytest.mark.slow
def test_a_wrong_peer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my_port.py").write_text(PORT.format(body="noise.clip(-1, 1)"))
    code, _, err = run(f"{QUICK} --peer my_port:sampler", capsys)
    assert code == 2
    assert "qgf-ref bench: left out: sampler does not compute the sampler" in err
    content = json.loads((place / "out" / "bench.json").read_text())
    assert [list(row["contenders"]) for row in content["rows"]] == [["numba", "numpy"]] * 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--network 512", "LAYERSxWIDTH"),
        ("--network 2x8 --checkpoint model.safetensors", "not both"),
        ("--activation relu", "--activation describes a checkpoint"),
        ("--estimator qfg", "unknown estimator 'qfg'"),
        ("--threads 99999", "number of threads must be from 1"),
        ("--batch 0", "batch must be from 1"),
        ("--rounds 0", "number of rounds must be from 1"),
        ("--peer nothing", "package.module:function"),
        ("--out in.npz", "cannot write"),
    ],
)
def test_bad_input(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    code, out, err = run(f"--no-memory {command}", capsys)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_help_has_an_example() -> None:
    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert "qgf-ref bench --smoke" in commands["bench"].format_help()  # type: ignore[index]
