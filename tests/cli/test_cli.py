"""The command line: exit codes, messages, and that bad input loses nothing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.sampling import trace
from tests.conftest import Golden, small_checkpoint, states
from tests.interop.test_checkpoints import Evil, official_tree, write


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a checkpoint, an input and observations; the current one."""
    ck = small_checkpoint()
    save_checkpoint(ck, tmp_path / "model.safetensors")
    obs, noise = states(ck, 5)
    np.savez(tmp_path / "in.npz", obs=obs, noise=noise)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_trace_writes_the_schema(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "trace --checkpoint model.safetensors --input in.npz --estimator qgf --weight 0.3"
    assert main([*command.split(), "--out", "out.npz"]) == 0
    with np.load(place / "out.npz") as out:
        shapes = {name: out[name].shape for name in out.files}
        metadata = json.loads(str(out["metadata"]))
        assert out["a"].dtype == np.float64
    assert shapes == {
        "obs": (5, 5), "noise": (5, 3), "action": (5, 3), "a": (6, 5, 3), "v": (6, 5, 3),
        "a1_hat": (6, 5, 3), "q": (6, 2, 5), "g": (6, 5, 3), "metadata": (),
    }  # fmt: skip
    assert (metadata["estimator"], metadata["weight"]) == ("qgf", 0.3)
    assert "wrote out.npz" in capsys.readouterr().out


def test_trace_reproduces_a_golden_case(golden: Golden, tmp_path: Path) -> None:
    weight = float(golden.official["weights"][0])
    source = tmp_path / "in.npz"
    np.savez(source, obs=golden.official["obs"], noise=golden.official["noise"])
    code = main(
        ["trace", "--checkpoint", str(golden.path / "params_0.pkl"), "--input", str(source),
         "--estimator", "bptt", "--weight", repr(weight), "--out", str(tmp_path / "out.npz")]
    )  # fmt: skip
    assert code == 0
    expected = golden.npz("trace_float64")
    with np.load(tmp_path / "out.npz") as out:
        for name in ("a", "v", "a1_hat", "q", "g", "action"):
            assert abs(out[name] - expected[f"bptt/w{np.float32(weight):g}/{name}"]).max() < 1e-9


def test_trace_in_float32(place: Path) -> None:
    command = "trace --checkpoint model.safetensors --input in.npz --weight 0.3 --dtype float32"
    assert main([*command.split(), "--time-embedding", "float32", "--out", "out.npz"]) == 0
    with np.load(place / "out.npz") as out:
        assert out["action"].dtype == np.float32


def test_explain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "explain --checkpoint model.safetensors --obs in.npz --estimator bptt --step 2"
    assert main([*command.split(), "--row", "4", "--brief"]) == 0
    out = capsys.readouterr().out
    assert "the same bits" in out
    assert "row 4, denoising step 2" in out


def test_estimators(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimators"]) == 0
    out = capsys.readouterr().out
    assert "qgf_jacobian_scheduled" in out
    assert "∇Q(s, â₁)" in out


def test_audit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "audit --checkpoint model.safetensors --obs in.npz --estimators none qgf --out report"
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    assert "all passed" in out
    assert "report/report.html" in out
    assert (place / "report" / "report.html").exists()


def test_audit_exits_1_when_a_check_fails(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qgf_ref.guidance.queries.batch_sum_vjp", lambda q: np.full(q.shape, 0.2))
    command = "audit --checkpoint model.safetensors --obs in.npz --estimators qgf --out report"
    assert main(command.split()) == 1
    assert "estimator qgf (definition): WRONG" in capsys.readouterr().out


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


TRACE = "trace --checkpoint model.safetensors --input in.npz --weight 0.3 --out out.npz"
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


@pytest.mark.parametrize("command", ["audit", "trace", "explain", "estimators"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  qgf-ref {command}" in out


def test_an_interrupt_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qgf_ref.cli.trace.trace", interrupt)
    assert main(TRACE.split()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_python_m_and_a_users_module_in_the_current_directory(place: Path) -> None:
    (place / "mine.py").write_text("def guide(flow, step):\n    return 0 * step.action\n")
    command = [sys.executable, "-m", "qgf_ref", *TRACE.split(), "--estimator", "mine:guide"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(place / "out.npz") as out:
        assert not out["g"].any()


def test_trace_embedding_is_the_apis(place: Path) -> None:
    found = {}
    for embedding in ("exact", "float32"):
        assert main([*TRACE.split(), "--time-embedding", embedding]) == 0
        with np.load(place / "out.npz") as out:
            found[embedding] = out["action"]
        flow = small_checkpoint().guided_flow(embedding=embedding)
        obs, noise = states(small_checkpoint(), 5)
        expected = trace(flow, obs, weight=0.3, noise=noise).action
        np.testing.assert_array_equal(found[embedding], expected)
    assert abs(found["exact"] - found["float32"]).max() > 1e-9


def test_explain_follows_the_guided_chain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for weight in (0.0, 0.7):
        command = f"explain --checkpoint model.safetensors --obs in.npz --step 3 --weight {weight}"
        assert main([*command.split(), "--row", "2"]) == 0
        printed.append(capsys.readouterr().out)
        obs, noise = states(small_checkpoint(), 5)
        g = trace(small_checkpoint().flow, obs, weight=weight, noise=noise).g[3, 2]
        assert f"G = {g[0]:>10.3e} {g[1]:>10.3e}" in printed[-1]
    assert printed[0] != printed[1]


def test_explain_exits_1_on_a_contradiction_and_0_on_plain_functions(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain = "explain --checkpoint model.safetensors --obs in.npz --estimator"
    assert main([*explain.split(), "tests.audit.test_audit:OffByOnePart"]) == 1
    assert "relative difference 1.0e-03" in capsys.readouterr().out
    assert main([*explain.split(), "tests.guidance.test_estimators:my_estimator"]) == 0
    assert "made outside the ledger" in capsys.readouterr().out
    (place / "bare.py").write_text("def f(flow, step):\n    return 2 * step.action\n")
    assert main([*explain.split(), "bare:f"]) == 0
    assert "not re-derived" in capsys.readouterr().out


def test_audit_uses_what_it_is_told(place: Path) -> None:
    base = "audit --checkpoint model.safetensors --obs in.npz --estimators qgf --out"
    reports = {}
    for name, extra in {
        "a": "", "b": "--rows 3", "c": "--weight 0.5", "d": "--seed 1", "e": "",
    }.items():  # fmt: skip
        assert main([*base.split(), name, *extra.split()]) == 0
        reports[name] = json.loads((place / name / "report.json").read_text())
    assert reports["b"]["settings"]["rows"] == 3
    a = reports["a"]
    assert a["profile"]["q"] == reports["e"]["profile"]["q"] != reports["b"]["profile"]["q"]
    assert a["precision"] == reports["e"]["precision"] != reports["c"]["precision"]
    assert a["profile"]["q"] != reports["d"]["profile"]["q"]


def test_users_estimators_keep_their_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine_too.py").write_text(
        "def f(flow, step):\n    return step.action\ndef g(flow, step):\n    return -step.action\n"
    )
    command = "audit --checkpoint model.safetensors --obs in.npz --out r --estimators"
    assert main([*command.split(), "mine_too:f", "mine_too:g"]) == 0
    out = capsys.readouterr().out
    assert "mine_too:f" in out
    assert "mine_too:g" in out


def test_pipes_and_terminals(place: Path) -> None:
    command = f"{sys.executable} -m qgf_ref estimators"
    done = subprocess.run(
        f"{command} | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command.split(), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
