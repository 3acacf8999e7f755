"""qgf-ref train-extra: what it says, and that the other commands find what it trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.cli.main import main
from tests.data.synthetic import TASK, write_dataset

SMALL = "--updates 4 --batch 5 --hidden 4 4 --horizon-length 2 --log-every 2 --denoise-steps 3"
FEW = ("--updates", "6", "--batch", "5", "--log-every", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    data = str(write_dataset(place))
    out = place / "run"
    assert main(["train", TASK, "--data", data, "--out", str(out), *SMALL.split()]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run in `run`, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_train_evaluate_audit_explain_trace(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez("obs.npz", obs=rng.uniform(0, 20, (4, 2)), noise=rng.standard_normal((4, 4)))
    checked = ["--checkpoint", "run", "--obs", "obs.npz"]
    assert main(["audit", *checked, "--rows", "3", "--estimators", "qgf", "robust_q"]) == 2
    assert "qgf-ref train-extra robust_q --run DIR" in capsys.readouterr().err
    assert main(["train-extra", "robust_q", "--run", "run", *FEW]) == 0
    out = capsys.readouterr().out
    assert "update 6" in out and "validation_loss" in out
    assert "Next: qgf-ref evaluate --checkpoint run --methods bc qgf robust_q" in out
    assert max(map(len, out.splitlines())) <= 100
    assert main(["audit", *checked, "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert "left out, having no network here: qgf_distill, qgf_jacobian_distill, cfgrl" in out
    assert "robust_q " in out
    recorded = ["--checkpoint", "run", "--input", "obs.npz", "--out", "t.npz"]
    for words in (["explain", *checked, "--step", "1"], ["trace", *recorded]):
        assert main([*words, "--estimator", "robust_q", "--weight", "0.1"]) == 0
    capsys.readouterr()
    small = ["--episodes", "1", "--selection-episodes", "1", "--envs", "1", "--weights", "0.1"]
    words = ["evaluate", "--checkpoint", "run", "--out", "out", *small, "--methods", "bc"]
    assert main([*words, "cfgrl"]) == 2
    message = capsys.readouterr().err
    assert "run/model.safetensors: cfgrl needs the auxiliary network cfgrl" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robust", "--run", "run"], "unknown auxiliary network 'robust'"),
        (["cfgrl", "--run", "nowhere"], "nowhere holds no training run"),
        (["cfgrl", "--run", "run", "--updates", "-1"], "updates must be at least 0"),
        (["cfgrl", "--run", "run", "--backend", "jax"], "unknown backend 'jax'"),
        (["cfgrl", "--run", "run", "--data", "none.npz"], "no data set at"),
    ],
)
def test_bad_input(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-extra", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(run.glob("cfgrl*"))
