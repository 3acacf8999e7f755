"""A flow without a critic: sampled, traced, compared and checked with the estimator none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.adapters.networks import NoCritic
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.testing import check_sampler
from tests.crosscheck.closed_flow import NOISE, OBS, T, flow


def bare() -> GuidedFlow:
    return replace(flow(), critic=NoCritic())


def build() -> GuidedFlow:
    """For the command line."""
    return bare()


def euler(change: Callable[[Array, Array, int], Array] = lambda a, v, k: v) -> Any:
    """A float32 sampler of plain behaviour cloning, written out, with something done to v."""
    field = flow("float32").field

    def sampler(obs: Array, noise: Array, weight: float) -> Array:
        a = noise
        for k in range(T):
            v = field.forward(obs, a, np.float32(k / T))[0]
            a = a + change(a, v, k) / np.float32(T)
        return np.clip(a, -1, 1)

    return sampler


def test_a_trace_holds_no_members_and_is_read_back() -> None:
    run = qgf_ref.trace(bare(), OBS, estimator="none", noise=NOISE)
    assert run.q.shape == (T, 0, len(OBS)) and not run.g.any()
    beside = qgf_ref.trace(flow(), OBS, estimator="none", noise=NOISE)
    np.testing.assert_array_equal(run.a1_hat, beside.a1_hat)
    trace = recorded_trace(run.arrays())
    result = compare(bare(), trace, estimator="none", convention="qgf")
    assert result.agrees and "estimator none" in text(result)


def test_guidance_and_ranking_still_ask_for_a_critic() -> None:
    with pytest.raises(InputError, match="this flow has no critic: only the estimator 'none'"):
        qgf_ref.trace(bare(), OBS, estimator="qgf", weight=0.1, noise=NOISE)
    with pytest.raises(InputError, match="no critic"):
        qgf_ref.sample(bare(), OBS, estimator="none", rng=0, best_of=2)


def test_samplers_are_checked_and_what_is_wrong_is_named() -> None:
    report = check_sampler(euler(), bare(), estimator="none", observations=OBS)
    assert report.diagnosis.agrees
    wrong = {
        "velocity-sign": lambda a, v, k: -v,
        "clip-every-step": lambda a, v, k: (np.clip(a + v / T, -1, 1) - a) * T,
    }
    for name, change in wrong.items():
        with pytest.raises(CrossCheckError, match=name):
            check_sampler(euler(change), bare(), estimator="none", observations=OBS)
    with pytest.raises(CrossCheckError, match="unknown at action"):
        port = euler(lambda a, v, k: np.tanh(2 * v))
        check_sampler(port, bare(), estimator="none", observations=OBS)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", obs=OBS, noise=NOISE)
    here = ["--flow", f"{__name__}:build", "--estimator", "none", "--weight", "0"]
    asked = ["--input", str(tmp_path / "in.npz"), "--out", str(tmp_path / "t.npz")]
    assert main(["trace", *here, *asked]) == 0
    assert main(["compare", *here, "--trace", str(tmp_path / "t.npz")]) == 0
    assert "AGREES" in capsys.readouterr().out
