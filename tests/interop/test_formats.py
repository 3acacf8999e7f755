"""The table of formats: one of a user's own is a file that defines it and a line in the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref import Checkpoint, InputError
from qgf_ref.cli.main import main
from qgf_ref.interop import formats
from qgf_ref.interop.format import Format, Written
from qgf_ref.interop.real_tensors import TensorFile
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import same


def read_json(path: Path) -> TensorFile:
    tree = json.loads(path.read_text())
    arrays = {name: np.array(values) for name, values in tree["tensors"].items()}
    return TensorFile(arrays, json.dumps(tree["options"]))


def write_json(path: Path, tensors: Sequence[Written], checkpoint: Checkpoint) -> None:
    values = {w.name: w.array.tolist() for w in tensors}
    path.write_text(json.dumps({"tensors": values, "options": checkpoint.options.stated()}))


JSON = Format(
    "json",
    (".json",),
    read_json,
    resembles=lambda start: start.startswith(b'{"tensors'),
    write=write_json,
    next_step="next: read {path}",
)


def test_a_format_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, JSON))
    ck = small_checkpoint()
    (tmp_path / "d").mkdir()
    qgf_ref.save_checkpoint(ck, tmp_path / "a.safetensors")
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "d" / "b.json")]) == 0
    assert f"next: read {tmp_path / 'd' / 'b.json'}" in capsys.readouterr().out
    same(qgf_ref.load(tmp_path / "d" / "b.json"), ck)
    same(qgf_ref.load(tmp_path / "d"), ck)
    same(qgf_ref.load((tmp_path / "d" / "b.json").rename(tmp_path / "c.bin")), ck)
    assert main(["convert", str(tmp_path / "c.bin"), str(tmp_path / "c.pt"), "--to", "torch"]) == 0
    same(qgf_ref.load(tmp_path / "c.pt"), ck)
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "flax,json,npz" in capsys.readouterr().out.replace(" ", "")


def test_names_and_suffixes_are_single() -> None:
    names = [form.name for form in formats.FORMATS]
    assert len(set(names)) == len(names)
    assert len(set(formats.suffixes())) == len(formats.suffixes())
    with pytest.raises(InputError, match=r"formats are qgf \(.safetensors\); torch \(.pt, .pth\)"):
        formats.to_write(Path("a.bin"))
    with pytest.raises(InputError, match="unknown format 'onnx'"):
        formats.to_write(Path("a.pt"), "onnx")
    with pytest.raises(InputError, match="does not say what to write"):
        formats.to_write(Path("a.pkl"))
