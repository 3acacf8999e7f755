"""Training on the stand-in for a GPU: updates, batches, and runs that change the backend."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import qgf_ref
from qgf_ref.agents.agent import Agent
from qgf_ref.agents.registry import AGENTS, OF_GOALS
from qgf_ref.backends.cupy import primitives, training
from qgf_ref.backends.engine import backend_named
from qgf_ref.cli.main import main
from qgf_ref.data.windows import sample_starts, windows
from qgf_ref.losses.optimiser import AdamState, adam
from qgf_ref.ops.learning import all_scaled, sum_of_squares
from qgf_ref.training import loop, run
from tests.data.synthetic import GOALS, SMALL_DQC, write_dataset
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.training import ORDERED, transitions, update_errors
from tests.helpers.small import small_checkpoint
from tests.training.conftest import same_run, tiny_config

BOOTSTRAPPED = {"critic_loss_type": "ddpg", "rho": 0.5}
DQC = {"goal_dim": 2, "backup_horizon": 5, "policy_chunk_size": 2, "kappa_d": 0.7}
CASES: dict[str, tuple[Agent, dict[str, Any]]] = {
    **{name: (agent, {}) for name, agent in AGENTS.items()},
    "iql of another order": (AGENTS["iql"], ORDERED),
    "iql of a lower bound": (AGENTS["iql"], {"q_aggregation": "lcb=0.7"}),
    "fql ddpg": (
        AGENTS["fql"].having({"critic_loss_type": "ddpg", "normalize_q_loss": True}), {},
    ),
    "qam ddpg": (AGENTS["qam"].having({**BOOTSTRAPPED, "best_of_n": 2, "clip_grad": 0.1}), {}),
    "dac ddpg": (AGENTS["dac"].having({**BOOTSTRAPPED, "clip_sampler_before": False}), {}),
    "qsm ddpg": (AGENTS["qsm"].having({**BOOTSTRAPPED, "clip_sampler_after": True}), {}),
    "dqc": (OF_GOALS["dqc"].having(DQC), {}),
    "dqc n-step": (
        OF_GOALS["dqc"].having({
            **DQC, "use_chunk_critic": False, "distill_method": "quantile",
            "policy_network": "dqc", "policy_goals": False,
        }), {},
    ),
}  # fmt: skip
"""Every agent that is trained, and what the defaults of its settings leave out."""


@pytest.mark.parametrize("case", CASES)
def test_updates_are_the_references(
    gpu: ModuleType, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured after two updates, over all cases: 5e-6 of parameters and moments in units of their
    arrays' sizes, 7e-7 of losses relative to their own.
    """
    monkeypatch.setattr(primitives, "MOST_BLOCKS", 2)  # a thread has several numbers
    agent, options = CASES[case]
    parameters, moments, losses = update_errors(agent, options)
    # one launch for all arrays of all networks, and one for all averages
    launches = stand_in.settings.launches
    assert launches.count("adam_steps") == 2
    assert launches.count("moving_averages") == (2 if agent.require_recipe().targets else 0)
    assert max(parameters, moments) < 2e-5 and losses < 5e-6


def test_gradients_are_clipped_jointly_by_two_kernels(gpu: ModuleType) -> None:
    """One norm of each group, whatever its networks, and one scaling of those that are too long."""
    settings = {"clip_grad": 1e-3}
    assert max(update_errors(AGENTS["qam"].having(settings), {}, 1)) < 2e-5
    launches = stand_in.settings.launches
    assert [launches.count(name) for name in ("sum_of_squares", "all_scaled")] == [2, 2]


def test_arrays_of_the_host_stay_there(gpu: ModuleType) -> None:
    """An agent whose losses are NumPy's: the kernels take what they are given."""
    rng = np.random.default_rng(0)
    ours, numpys = backend_named("cupy").kernels(), backend_named("numpy").kernels()
    arrays = [rng.standard_normal(n).astype(np.float32) for n in (3, 40)]
    for kernels in (ours, numpys):
        assert kernels(all_scaled, 2.0, *arrays)[1] is not None
    assert ours(sum_of_squares, *arrays) == numpys(sum_of_squares, *arrays)
    state = AdamState.zero(net := small_checkpoint(1).policy)
    (one, _), (other, _) = (adam(net, net, state, kernels=kernels) for kernels in (ours, numpys))
    assert all(map(np.array_equal, one.arrays(), other.arrays()))
    assert not stand_in.settings.launches
    parameters, moments, losses = update_errors(AGENTS["qam"], {}, there=False)
    assert max(parameters, moments) < 2e-5 and losses < 5e-6
    assert "block_forward" in stand_in.settings.launches
    assert "adam_steps" not in stand_in.settings.launches


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("horizon", [1, 4])
def test_windows(
    gpu: ModuleType, fits: bool, horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gathered by a kernel, or staged in pinned memory: NumPy's, to the rounding of a sum."""
    monkeypatch.setattr(training, "SHARE", 0.5 if fits else 0.0)
    data, rng = transitions(), np.random.default_rng(2)
    place: Any = training.DeviceArrays()
    for rows in (40, 40, 7, 40):  # held-out rows are not as many as a batch's
        starts = sample_starts(rng, data, rows, horizon)
        expected = windows(data, starts, horizon, 0.9).astype(np.float32)
        got = place.windows(data, starts, horizon, 0.9, lambda e=expected: e)
        for name, array in vars(expected).items():
            ours = getattr(got, name).get()
            assert ours.dtype == array.dtype and ours.shape == array.shape
            np.testing.assert_allclose(ours, array, rtol=0, atol=1e-6, err_msg=name)
    assert ("gather_windows" in stand_in.settings.launches) == fits


def test_a_run_begun_on_one_backend_goes_on_with_the_other(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state file is the same; the same bits on the same backend, values to rounding else."""
    monkeypatch.setattr(run, "loss_curves", lambda *arguments: None)
    monkeypatch.setattr(loop, "VALIDATION_ROWS", 16)
    data = write_dataset(tmp_path, count=6, steps=41)
    config = tiny_config(data, updates=8, log_every=4, checkpoint_every=4, backend="cupy")
    run.start(config, tmp_path / "whole")
    run.start(replace(config, backend="numpy"), tmp_path / "reference")
    run.start(replace(config, updates=4), tmp_path / "parted")
    run.resume(tmp_path / "parted", updates=8)
    same_run(tmp_path / "whole", tmp_path / "parted")
    ours, theirs = (load_file(tmp_path / r / "state.safetensors") for r in ("whole", "reference"))
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-5, err_msg=name)
    # begun here, ended there
    run.start(replace(config, updates=4), tmp_path / "mixed")
    about = json.loads((tmp_path / "mixed" / "train.json").read_text())
    about["config"]["backend"] = "numpy"
    (tmp_path / "mixed" / "train.json").write_text(json.dumps(about))
    run.resume(tmp_path / "mixed", updates=8)
    reference = qgf_ref.load(tmp_path / "reference", dtype="float32").policy.arrays()
    mixed = qgf_ref.load(tmp_path / "mixed", dtype="float32").policy.arrays()
    for array, expected in zip(mixed, reference, strict=True):
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)


def test_training_on_goals(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of integers, booleans and goals of no columns: uploaded, the reference's run."""
    monkeypatch.setattr(loop, "VALIDATION_ROWS", 16)
    write_dataset(tmp_path, count=5, steps=41)
    found = []
    for backend in ("cupy", "numpy"):
        out = tmp_path / backend
        flags = ["--updates", "3", "--out", str(out), "--backend", backend, *SMALL_DQC]
        assert main(["train", GOALS, "--data", str(tmp_path), *flags]) == 0
        found.append(load_file(out / "state.safetensors"))
    assert stand_in.settings.launches.count("adam_steps") == 3
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], rtol=0, atol=1e-5, err_msg=name)
