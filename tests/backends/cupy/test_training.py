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
from qgf_ref.agents.cfgrl import RECIPE as CFGRL
from qgf_ref.agents.iql import RECIPE as IQL
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.robust_q import RECIPE as ROBUST_Q
from qgf_ref.backends.cupy import training
from qgf_ref.data.windows import sample_starts, windows
from qgf_ref.training import loop, run
from tests.data.synthetic import write_dataset
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.training import ORDERED, transitions, update_errors
from tests.training.conftest import same_run, tiny_config


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(IQL, {}), (IQL, ORDERED), (ROBUST_Q, {}), (CFGRL, {})],
    ids=["iql", "iql of another order", "robust_q", "cfgrl"],
)
def test_updates_are_the_references(
    gpu: ModuleType, recipe: Recipe, options: dict[str, str]
) -> None:
    """Measured after two updates: 3e-8 of parameters, 2e-7 of losses relative to their size."""
    parameters, losses = update_errors(recipe, options)
    # one launch for all arrays of a network
    assert stand_in.settings.launches.count("adam_steps") == 2 * len(recipe.trained)
    assert parameters < 1e-6 and losses < 1e-5


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("horizon", [1, 4])
def test_windows(
    gpu: ModuleType, fits: bool, horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gathered by a kernel, or staged in pinned memory: NumPy's, to the rounding of a sum."""
    monkeypatch.setattr(training, "SHARE", 0.5 if fits else 0.0)
    data, rng = transitions(), np.random.default_rng(2)
    place: Any = training.DeviceArrays()
    for _ in range(3):
        starts = sample_starts(rng, data, 40, horizon)
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
