"""The command line: exit codes, messages, and that bad input loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.sampling import trace
from tests.conftest import Golden, small_checkpoint, states
from tests.helpers.bad_input import TRACE


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
    typed = "--checkpoint model.safetensors --obs in.npz --estimator qgf"
    assert f"Next: qgf-ref explain {typed} --step 3" in out
    assert "      qgf-ref study bias-variance --estimators qgf  (how biased" in out
    assert (place / "report" / "report.html").exists()


def test_observations_as_ogbench_names_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load("in.npz") as file:
        np.savez("theirs.npz", observations=file["obs"], actions=np.zeros((1, 1)))
    command = "explain --checkpoint model.safetensors --brief --estimator qgf --obs"
    assert main([*command.split(), "theirs.npz"]) == 0
    np.savez("neither.npz", actions=np.zeros((1, 1)))
    assert main([*command.split(), "neither.npz"]) == 2
    assert "lacks obs; it holds actions" in capsys.readouterr().err


def test_audit_exits_1_when_a_check_fails(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qgf_ref.guidance.queries.batch_sum_vjp", lambda q: np.full(q.shape, 0.2))
    command = "audit --checkpoint model.safetensors --obs in.npz --estimators qgf --out report"
    assert main(command.split()) == 1
    assert "estimator qgf (definition): WRONG" in capsys.readouterr().out


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
    assert main([*explain.split(), "tests.audit.test_planted:OffByOnePart"]) == 1
    assert "relative difference 1.0e-03" in capsys.readouterr().out
    assert main([*explain.split(), "tests.guidance.test_registry:my_estimator"]) == 0
    assert "made outside the ledger" in capsys.readouterr().out
    (place / "bare.py").write_text("def f(flow, step):\n    return 2 * step.action\n")
    assert main([*explain.split(), "bare:f"]) == 0
    assert "not re-derived" in capsys.readouterr().out


@pytest.mark.slow
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
