"""CFGRL's checkpoints of the official code, and how it samples."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.cli.main import main
from qgf_ref.nets.velocity import ConditionalVelocity, MLPVelocity, at_label

FILES = Path(__file__).parent / "official_cfgrl"
SAMPLES = np.load(FILES / "samples.npz")


def loaded(dtype: Any = "float32") -> qgf_ref.Checkpoint:
    return qgf_ref.load(FILES / "params_3.pkl", dtype=dtype)


def flow() -> qgf_ref.GuidedFlow:
    return loaded().guided_flow(embedding="float32")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("weight", [0, 1, 3])
def test_it_samples_as_there(backend: str, n: int, weight: int) -> None:
    """Float32 networks of 8 units, 6 steps: differences up to 5e-7 were seen."""
    actions = qgf_ref.sample(
        flow(), SAMPLES["obs"], estimator="cfgrl", weight=float(weight), backend=backend,
        noise=SAMPLES[f"noise_{n}"], best_of=n,
    )  # fmt: skip
    np.testing.assert_allclose(actions, SAMPLES[f"action_{n}_{weight}"], atol=2e-6, rtol=0)


def test_the_online_critic_ranks() -> None:
    """By the target critic, as a flow without another does, most rows choose another action."""
    by_target = qgf_ref.sample(
        replace(flow(), online_critic=None), SAMPLES["obs"], estimator="cfgrl", weight=1.0,
        noise=SAMPLES["noise_4"], best_of=4,
    )  # fmt: skip
    assert (np.abs(by_target - SAMPLES["action_4_1"]).max(axis=1) > 0.1).sum() >= 2


def test_the_policy_is_the_flow_at_label_0() -> None:
    checkpoint = loaded("float64")
    params = checkpoint.auxiliary.cfgrl
    assert params is not None
    obs, action = SAMPLES["obs"].astype(float), SAMPLES["noise_1"].astype(float)
    for label in (0, 1):
        conditional = ConditionalVelocity(params, condition=label)
        v, _ = conditional.forward(obs, action, 0.3)
        alone, _ = MLPVelocity(at_label(params, label)).forward(obs, action, 0.3)
        np.testing.assert_allclose(alone, v, atol=1e-14, rtol=0)
    stored = checkpoint.network("policy").forward(obs, action, 0.3)[0]
    v0 = ConditionalVelocity(params, condition=0).forward(obs, action, 0.3)[0]
    # the file is of float32, and so is the bias that the label's columns have become part of
    np.testing.assert_allclose(stored, v0, atol=2e-6, rtol=0)


def test_convert_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("params_3.pkl", "flags.json"):
        shutil.copy(FILES / name, tmp_path)
    assert main(["convert", str(tmp_path / "params_3.pkl"), str(tmp_path / "c.safetensors")]) == 0
    assert "its auxiliary network cfgrl is not in the file" in capsys.readouterr().out


def test_a_trace_that_says_nothing_is_told_of_its_guidance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "theirs.npz"
    np.savez(trace, obs=SAMPLES["obs"], noise=SAMPLES["noise_1"], action=SAMPLES["action_1_1"])
    words = ["compare", "--checkpoint", str(FILES / "params_3.pkl"), "--trace", str(trace)]
    assert main([*words, "--weight", "1"]) == 2
    assert "give --estimator, cfgrl if it samples with" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--weight", "1", "--estimator", "cfgrl"]) == 0
