"""Bad input on the command line: exit code 2, one clear line, nothing overwritten."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.cli.main import main
from tests.conftest import small_checkpoint
from tests.helpers.bad_input import TRACE
from tests.helpers.checkpoints import Evil, official_tree, write


def _corrupt(path: Path) -> None:
    (path / "params_1.pkl").write_bytes(b"\x80\x04nonsense")


def _truncated(path: Path) -> None:
    write(path / "params_1.pkl", official_tree(small_checkpoint()))
    whole = (path / "params_1.pkl").read_bytes()
    (path / "params_1.pkl").write_bytes(whole[: len(whole) // 2])


def _malicious(path: Path) -> None:
    tree = {"agent": Evil(os.system, f"touch {path / 'pwned'}")}
    (path / "params_1.pkl").write_bytes(pickle.dumps(tree))


def _without_flags(path: Path) -> None:
    write(path / "params_1.pkl", official_tree(small_checkpoint()))


def _wide_input(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.zeros((2, 6)), noise=np.zeros((2, 3)))


def _nan_input(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.full((2, 5), np.nan), noise=np.zeros((2, 3)))


def _complex_input(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.zeros((2, 5), complex), noise=np.zeros((2, 3)))


def _short_noise(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.zeros((4, 5)), noise=np.zeros((2, 3)))


def _broken_module(path: Path) -> None:
    (path / "broken.py").write_text("def f(:")


def _no_noise(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.zeros((2, 5)))


def _object_input(path: Path) -> None:
    np.savez(path / "in.npz", obs=np.array([Evil(os.system, f"touch {path / 'pwned'}")]))


def _not_npz(path: Path) -> None:
    (path / "in.npz").write_text("hello")


def _nothing(path: Path) -> None:
    pass


OF_PICKLE = TRACE.replace("model.safetensors", "params_1.pkl")


AUDIT = "audit --checkpoint model.safetensors --obs in.npz --out report"


EXPLAIN = "explain --checkpoint model.safetensors --obs normal"


BAD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "corrupt": (_corrupt, OF_PICKLE, "truncated or corrupt"),
    "truncated": (_truncated, OF_PICKLE, "truncated or corrupt"),
    "malicious": (_malicious, OF_PICKLE, "refused: it contains the name posix.system"),
    "missing flags": (_without_flags, OF_PICKLE, "--activation"),
    "no checkpoint": (_nothing, OF_PICKLE, "no checkpoint at params_1.pkl"),
    "wrong width": (_wide_input, TRACE, "obs must have shape (rows, 5), got (2, 6)"),
    "NaN": (_nan_input, TRACE, "obs must be finite: 10 of 10"),
    "no noise": (_no_noise, TRACE, "lacks noise; it holds obs"),
    "pickled input": (_object_input, TRACE, "not a readable npz"),
    "not an npz": (_not_npz, TRACE, "not a readable npz"),
    "no input": (_nothing, TRACE.replace("in.npz", "no.npz"), "cannot read no.npz"),
    "estimator": (_nothing, f"{TRACE} --estimator qfg", "unknown estimator 'qfg'; the valid ones"),
    "denoise_steps 0": (_nothing, f"{TRACE} --denoise-steps 0", "must be from 1 to 100000, got 0"),
    "activation": (_nothing, f"{TRACE} --activation gleu", "unknown activation 'gleu'"),
    "weight": (_nothing, f"{TRACE} --weight nan", "weight must be a finite number"),
    "no directory": (_nothing, TRACE.replace("out.npz", "no/out.npz"), "there is no directory no"),
    "directory": (_nothing, TRACE.replace("out.npz", "."), "it is a directory"),
    "unwritable audit": (
        _nothing,
        "audit --checkpoint model.safetensors --obs in.npz --out in.npz/report",
        "cannot write into in.npz/report",
    ),
    "audit without obs": (_nothing, "audit --checkpoint model.safetensors", "give --obs F.npz"),
    "audit estimator": (_nothing, "audit --estimators qgf nope", "unknown estimator 'nope'"),
    "input as output": (_nothing, TRACE.replace("out.npz", "in.npz"), "is an input"),
    "checkpoint as output": (
        _nothing,
        TRACE.replace("out.npz", "model.safetensors"),
        "is an input",
    ),
    "negative weight": (_nothing, f"{TRACE} --weight=-1", "weight must be a finite number ≥ 0"),
    "complex input": (_complex_input, TRACE, "real numbers, got dtype complex128"),
    "long path": (_nothing, OF_PICKLE.replace("params_1", "p" * 300), "File name too long"),
    "too many steps": (_nothing, f"{TRACE} --denoise-steps 1000000000", "from 1 to 100000"),
    "broken estimator": (_broken_module, f"{TRACE} --estimator broken:f", "SyntaxError"),
    "no module": (_nothing, f"{TRACE} --estimator :f", "not of the form"),
    "few rows": (_nothing, "audit --rows -3", "--rows must be at least 2, got -3"),
    "audit weight": (_nothing, f"{AUDIT} --weight nan", "weight must be a finite number ≥ 0"),
    "audit oracle": (_nothing, f"{AUDIT} --estimators oracle", "closed-form"),
    "audit of nothing": (_nothing, f"{AUDIT} --estimators none", "beside 'none'"),
    "audit twice": (_nothing, f"{AUDIT} --estimators qgf qgf", "audited once"),
    "audit NaN": (_nan_input, AUDIT, "obs must be finite"),
    "explain row": (
        _nothing,
        f"{EXPLAIN} --row -5",
        "row must be one of the 256, 0 to 255, got -5",
    ),
    "explain noise": (_short_noise, EXPLAIN.replace("normal", "in.npz"), "each of the 4, got 2"),
    "explain step": (
        _nothing,
        "explain --checkpoint model.safetensors --obs normal --step 9",
        "step must be one of the 6, 0 to 5, got 9",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_exits_2_and_loses_nothing(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, command, message = BAD[name]
    prepare(place)
    (place / "out.npz").write_text("precious")
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_unusable_arguments_exit_2() -> None:
    for arguments in ([], ["audti"], ["trace"], ["audit", "--rows", "many"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
