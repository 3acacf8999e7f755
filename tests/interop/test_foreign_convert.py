"""qgf-ref convert: files of every kind into each other, the table, and what is refused."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.cli import convert
from qgf_ref.cli import main as cli
from qgf_ref.interop.export import export
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, same, write
from tests.helpers.foreign_names import (
    damaged,
    drop,
    odd,
    put,
    rules_for_odd,
    tensors_of,
)

FORMATS = {"torch": "a.pt", "flax": "a.msgpack", "npz": "a.npz", "qgf": "a.safetensors"}
FLAGS = [
    "--activation=gelu", "--q-aggregation=min", "--denoise-steps=6", "--horizon-length=1",
    "--action-chunking", "--discount=0.9", "--expectile=0.8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def only_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command by itself, with the errors and exit codes of the whole command line."""

    def parser() -> argparse.ArgumentParser:
        top = argparse.ArgumentParser(prog="qgf-ref")
        convert.add_parser(top.add_subparsers(dest="command", required=True))
        return top

    monkeypatch.setattr(cli, "parser", parser)


def run(*args: object) -> int:
    return cli.main(["convert", *map(str, args)])


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_there_and_back_is_bit_exact(
    first: str, second: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ck = small_checkpoint(dtype="float32", aggregation="mean")
    (tmp_path / "x").mkdir()
    save_checkpoint(ck, tmp_path / "ours.safetensors")
    a, b, c = (tmp_path / FORMATS[first], tmp_path / "x" / FORMATS[second], tmp_path / "c")
    for source, destination in ((tmp_path / "ours.safetensors", a), (a, b), (b, c)):
        assert run(source, destination) == 0
    same(qgf_ref.load(c, dtype="float32"), ck)
    assert (c / "model.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100 + len(str(tmp_path))


def test_the_table_names_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = official_tree(small_checkpoint(dtype="float32"))
    write(tmp_path / "params_1.pkl", tree, OPTIONS)
    assert run(tmp_path / "params_1.pkl", tmp_path / "a.pt") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["from", "to", "shape"]
    assert ["policy/MLP_0/Dense_0/kernel", "policy.layers.0.weight", "11", "×", "24"] in rows
    assert ["policy/Dense_0/bias", "policy.layers.3.bias", "3"] in rows
    assert ["critic/value_net/LayerNorm_2/scale", "critic.1.norms.2.weight", "9"] in rows
    assert f"wrote {tmp_path / 'a.pt'}: 82 tensors of float32" in lines
    assert any("torch.load" in line for line in lines)
    assert run(tmp_path / "a.pt", tmp_path / "a.msgpack") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    both = "critic.0.norms.2.…tic.1.norms.2.bias"
    assert [both, "critic/value_net/LayerNorm_2/bias", "2", "×", "9"] in rows


def test_names_that_are_long_stay_within_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {f"{'x' * 80}.{k}": a for k, a in damaged(lambda t: None).items()}
    assert run(put(tmp_path / "a.npz", tensors), tmp_path / "a.msgpack", *FLAGS) == 0
    table = capsys.readouterr().out.partition("wrote")[0].splitlines()
    assert max(map(len, table)) <= 100
    same(qgf_ref.load(tmp_path / "a.msgpack"), small_checkpoint())


def test_rules_and_flags(tmp_path: Path) -> None:
    ck = small_checkpoint(dtype="float32")
    source = put(tmp_path / "a.npz", tensors_of(ck, odd, transposed=True, apart=True))
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"rules": rules_for_odd()}))
    assert run(source, tmp_path / "b.safetensors", *FLAGS) == 2
    assert run(source, tmp_path / "b.safetensors", "--rules", rules, *FLAGS) == 0
    same(qgf_ref.load(tmp_path / "b.safetensors", dtype="float32"), ck)
    assert run(source, rules, "--to", "npz", "--rules", rules, *FLAGS) == 2
    assert json.loads(rules.read_text())


def test_the_choice_of_a_target_critic_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(tmp_path / "a.npz", damaged(lambda t: drop(t, "target")))
    assert run(source, tmp_path / "b.pt", *FLAGS) == 2
    assert "--target-critic-from critic" in capsys.readouterr().err
    assert run(source, tmp_path / "b.pt", *FLAGS, "--target-critic-from", "critic") == 0
    out = capsys.readouterr().out
    assert "note: the target critic is a copy of the critic, as asked" in out


def refused(tmp_path: Path, name: str) -> tuple[Any, ...]:
    ours = tmp_path / "ours.safetensors"
    directory = tmp_path / "d"
    save_checkpoint(small_checkpoint(), ours)
    save_checkpoint(small_checkpoint(), directory)
    return {
        "an unknown suffix": (ours, tmp_path / "a.onnx"),
        "onto itself": (ours, ours),
        "into its own directory": (directory / "model.safetensors", directory),
        "onto the file of a directory": (directory, directory / "model.safetensors"),
        "over another run": (ours, directory),
        "nowhere": (ours, tmp_path / "none" / "a.pt"),
        "from nothing": (tmp_path / "none", tmp_path / "a.pt"),
        "our format by another name": (ours, tmp_path / "a.pt", "--to", "qgf"),
        "a directory in the way": (ours, directory, "--to", "torch"),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("an unknown suffix", "its suffix does not say what to write"),
        ("onto itself", "it is an input of this command"),
        ("into its own directory", "it holds the source"),
        ("onto the file of a directory", "it is an input of this command|it holds the source"),
        ("over another run", r"d holds a run's model\.safetensors: give --overwrite"),
        ("nowhere", "there is no directory"),
        ("from nothing", "no checkpoint at"),
        ("our format by another name", "a .safetensors file or a directory"),
        ("a directory in the way", "it is a directory"),
    ],
)
def test_bad_places(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*refused(tmp_path, name)) == 2
    assert re.search(message, capsys.readouterr().err)
    same(qgf_ref.load(tmp_path / "ours.safetensors"), small_checkpoint())
    same(qgf_ref.load(tmp_path / "d"), small_checkpoint())


def test_a_run_is_replaced_where_that_is_said(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    save_checkpoint(small_checkpoint(1), ours)
    save_checkpoint(small_checkpoint(), tmp_path / "d")
    assert run(ours, tmp_path / "d", "--overwrite") == 0
    same(qgf_ref.load(tmp_path / "d"), small_checkpoint(1))


def test_the_embedded_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cube-single-play", tmp_path / "a.pt") == 0
    back = qgf_ref.load(tmp_path / "a.pt", dtype="float32")
    same(back, qgf_ref.load(dtype="float32"))
    assert max(map(len, capsys.readouterr().out.splitlines()[:-4])) <= 100


def test_dtypes_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    half = small_checkpoint()
    half = type(half)(
        half.options,
        *(getattr(half, n).map(lambda a: a.astype(np.float16)) for n in
          ("policy", "critic", "target_critic", "value")),
    )  # fmt: skip
    with pytest.raises(qgf_ref.InputError, match="float32 or float64, not float16"):
        export(half, tmp_path / "a.pt", "torch")
