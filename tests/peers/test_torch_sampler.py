"""The PyTorch port of the sampler against ours.

The port is float32, ours float64 with the official float32 time embedding. Run with
`pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from tests.conftest import GOLDEN_CASES, golden_case, small_checkpoint

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from benchmarks.peers.torch_sampler import (  # noqa: E402
    ACTIVATIONS,
    ESTIMATORS,
    ReciprocalTimes,
    TorchSampler,
)

Probe = tuple[Array, Array, float]
TOLERANCES = {"a": 4e-5, "v": 1e-5, "a1_hat": 4e-5, "q": 1e-4, "g": 2e-3, "action": 2e-5}
"""Measured with 5 estimators on 4 checkpoints: a 4e-6, v 1.3e-6, a1_hat 4e-6, q 9e-6, g 1.6e-4 (of
up to 8), action 1.3e-6, all largest on `small_checkpoint` with a row of little variance."""


def small() -> Checkpoint:
    """T = 5, for which k/T in float32 is also what XLA computes."""
    return small_checkpoint(steps=5)


def chunked() -> Checkpoint:
    """The other options: two actions in a chunk, mean of three members, relu, square kernels."""
    ck = small_checkpoint(
        action_dim=4, hidden=(12, 12, 12), aggregation="mean", activation="relu", members=3, steps=4
    )
    return replace(ck, options=replace(ck.options, horizon_length=2))


CHECKPOINTS = {"small": small, "chunked": chunked}


def inputs(ck: Checkpoint, rows: int, seed: int, scale: float = 1.0, draws: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, ck.obs_dim)).astype(np.float32)
    noise = scale * rng.standard_normal((rows * draws, ck.flat_action_dim))
    return obs, noise.astype(np.float32)


def probes(ck: Checkpoint) -> list[Probe]:
    cases = [(16, 1.0, 0.3), (16, 3.0, 0.3), (16, 0.3, 0.3), (1, 1.0, 0.3), (16, 1.0, 0.0)]
    return [(*inputs(ck, rows, i, scale), w) for i, (rows, scale, w) in enumerate(cases)]


def ours(ck: Checkpoint, probe: Probe, estimator: str = "qgf") -> dict[str, Array]:
    obs, noise, w = probe
    flow = ck.guided_flow(embedding="float32")
    return qgf_ref.trace(flow, obs, estimator=estimator, weight=w, noise=noise).arrays()


def agree(theirs: dict[str, Array], expected: dict[str, Array]) -> None:
    assert set(theirs) == set(expected)
    for name, array in expected.items():
        assert theirs[name].shape == array.shape, name
        assert theirs[name].dtype == np.float32, name
        assert abs(theirs[name] - array).max() <= TOLERANCES.get(name, 0.0), name


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case", [*CHECKPOINTS, *GOLDEN_CASES])
def test_the_port_agrees(case: str, estimator: str) -> None:
    ck = CHECKPOINTS[case]() if case in CHECKPOINTS else golden_case(case).load()
    for probe in probes(ck):
        # T = 7 is one of those whose times XLA rounds otherwise than k/T
        port = ReciprocalTimes(ck, estimator=estimator)
        agree(port.trace(*probe), ours(ck, probe, estimator))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    ck = small_checkpoint(activation=activation, steps=5)
    agree(TorchSampler(ck).trace(*probes(ck)[0]), ours(ck, probes(ck)[0]))


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_best_of(case: str) -> None:
    ck = CHECKPOINTS[case]()
    for seed in range(4):
        obs, noise = inputs(ck, 16, seed, draws=4)
        flow = ck.guided_flow(embedding="float32")
        expected = qgf_ref.sample(flow, obs, weight=0.3, noise=noise, best_of=4)
        actual = TorchSampler(ck).sample(obs, noise, 0.3, best_of=4)
        assert abs(actual - expected).max() < TOLERANCES["action"]
    alone = TorchSampler(ck).sample(obs, noise[:16], 0.3)
    assert (alone == TorchSampler(ck).trace(obs, noise[:16], 0.3)["action"]).all()


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_official_actions(case: str) -> None:
    """Measured ≤ 6e-7 (float32 on both sides)."""
    golden = golden_case(case)
    file = golden.official
    compared = set()
    for key in file:
        estimator, _, w = key.removeprefix("official/").partition("/w")
        best_of = 4 if estimator == "qgf_bfn4" else 1
        estimator = estimator.removesuffix("_bfn4")
        if w and estimator in ESTIMATORS:
            port = ReciprocalTimes(golden.load("float32"), estimator=estimator)
            noise = file["noise" if best_of == 1 else "bfn_noise"]
            actual = port.sample(file["obs"], noise, float(w), best_of)
            assert abs(actual - file[key]).max() < 5e-6, key
            compared.add((estimator, best_of))
    assert compared == {("ood", 1), ("qgf", 1), ("qgf_jacobian", 1), ("qgf", 4)}


def test_times_of_a_port_that_divides() -> None:
    """T = 6: 5/6 is one ulp off what XLA computes, and v is 1e-4 … 1e-3 off at that step alone."""
    ck = small_checkpoint(steps=6)
    probe = probes(ck)[0]
    expected = ours(ck, probe)
    agree(ReciprocalTimes(ck).trace(*probe), expected)
    difference = abs(TorchSampler(ck).trace(*probe)["v"] - expected["v"]).max(axis=(1, 2))
    assert (difference[:5] < TOLERANCES["v"]).all()
    assert 1e-4 < difference[5] < 2e-3


def test_other_steps_and_errors() -> None:
    ck = small()
    assert len(TorchSampler(ck, denoise_steps=3).trace(*probes(ck)[0])["v"]) == 3
    with pytest.raises(InputError, match=r"'sgf'.*bptt, none"):
        TorchSampler(ck, estimator="sgf")
    with pytest.raises(InputError, match=r"'gelu_erf'.*gelu, elu"):
        TorchSampler(small_checkpoint(activation="gelu_erf"))
