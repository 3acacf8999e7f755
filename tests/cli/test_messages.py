"""A long error is laid out: what is wrong, then what to do, in lines that a terminal shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.cli.output import LONG, WIDTH, laid_out, listed
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint


def test_short_ones_stay_on_one_line() -> None:
    said = f"{'x' * 90} is wrong. Give another"
    assert laid_out("qgf-ref trace", said) == f"qgf-ref trace: {said}"


def test_sentences_begin_lines() -> None:
    path = "p" * (WIDTH + 20)
    said = laid_out(
        "qgf-ref audit",
        f"{path} is no checkpoint: {'it holds nothing ' * 20}at all; write a rule file (--rules "
        'R.json): {"rename": {"a": "policy"}}; f(x); g(x). Mapping found so far: none',
    )
    first, *rest = said.splitlines()
    assert first == "qgf-ref audit:" and rest[0] == f"  {path}"
    assert all(len(line) <= WIDTH and line.startswith("  ") for line in rest[1:])
    assert rest[-2].startswith("  write a rule file") and rest[-2].endswith("f(x); g(x).")
    assert rest[-1] == "  Mapping found so far: none"


@pytest.mark.parametrize("command", ["audit --checkpoint F --out report", "convert F out.pt"])
def test_what_is_left_over_in_a_file(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_checkpoint(small_checkpoint(), "m.safetensors")
    assert main(["convert", "m.safetensors", "a.npz"]) == 0
    with np.load("a.npz") as held:
        arrays = {name: held[name] for name in held.files if held[name].dtype.kind == "f"}
    second = {f"other_{n}": a for n, a in arrays.items() if n.startswith("policy")}
    np.savez("a.npz", **arrays, **second)
    capsys.readouterr()
    assert main(command.replace("F", "a.npz").split()) == 2
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert len(said) > LONG and max(map(len, lines)) <= WIDTH
    assert lines[0].startswith(f"qgf-ref {command.split()[0]}: a.npz: ")
    assert any(line.startswith("  Mapping found so far: ") for line in lines)
    assert any("--rules" in line for line in lines[1:])


def test_a_list_keeps_to_the_columns_and_breaks_no_item() -> None:
    assert listed("wrote t.npz:", ["obs (2, 28)", "q (10, 2, 2)"], ",") == (
        "wrote t.npz: obs (2, 28), q (10, 2, 2)"
    )
    items = [f"study_correction_{n}.csv" for n in range(12)]
    said = listed("\nin out:", items)
    assert said.split() == ["in", "out:", *items]
    assert max(map(len, said.splitlines())) <= WIDTH
    assert listed("in out:", ["x" * 120]) == "in out:\n  " + "x" * 120
