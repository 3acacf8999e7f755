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
from qgf_ref.agents.step import TrainState, update
from qgf_ref.backends.cupy import training
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.windows import Transitions, sample_starts, windows
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.nets.networks import Networks
from qgf_ref.training import loop, run
from tests.conftest import small_checkpoint
from tests.data.synthetic import write_dataset
from tests.helpers.gpu import stand_in
from tests.training.conftest import same_run, tiny_config

HYPER = Hyperparameters(horizon=2, learning_rate=1e-2)


def transitions(steps: int = 60, O: int = 5, A: int = 3) -> Transitions:
    rng = np.random.default_rng(0)
    terminals = (rng.random(steps) < 0.2).astype(np.float32)
    obs, next_obs, action = (rng.standard_normal((steps, n)).astype(np.float32) for n in (O, O, A))
    return Transitions(
        obs,
        next_obs,
        action,
        rng.standard_normal(steps).astype(np.float32),
        (rng.random(steps) < 0.8).astype(np.float32),
        terminals,
    )


ORDERED: dict[str, Any] = {
    "norm_after_activation": "all",
    "residual": "all",
    "activation": "mish,critic=elu",
}
"""Of blocks; `qgf_ref.agents.checkpoint.Options`."""


def networks(recipe: Recipe, kernels: Any, **options: Any) -> Networks:
    checkpoint = small_checkpoint(1, dtype="float32", hidden=(8, 8, 8) if options else (11, 10, 9))
    checkpoint = replace(checkpoint, options=replace(checkpoint.options, **options))
    base = checkpoint.networks(embedding="float32", kernels=kernels)
    if recipe is IQL:
        return base
    (part,) = recipe.parts
    settings = checkpoint.network_settings("float32", kernels)
    params = part.initial(np.random.default_rng(3), 5, 3, (6, 5), 2)
    return Networks(**vars(base), **{part.name: part.network(params, settings)})


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(IQL, {}), (IQL, ORDERED), (ROBUST_Q, {}), (CFGRL, {})],
    ids=["iql", "iql of another order", "robust_q", "cfgrl"],
)
def test_updates_are_the_references(
    gpu: ModuleType, recipe: Recipe, options: dict[str, str]
) -> None:
    """Measured after two updates: 3e-8 of parameters, 2e-7 of losses relative to their size."""
    backend = backend_named("cupy")
    assert recipe.resident and backend.residence is not None
    place = backend.residence()
    rng = np.random.default_rng(1)
    data = transitions()
    starts = sample_starts(rng, data, 9, HYPER.horizon)
    # the small agent's chunk is one action of three numbers
    batch = windows(data, starts, 1, HYPER.discount).astype(np.float32)
    drawn = recipe.draw(rng, batch, HYPER)
    there = Batch(**{name: place.put(array) for name, array in vars(batch).items()})
    drawn_there = {name: place.put(array) for name, array in drawn.items()}
    ours = TrainState.create(recipe, networks(recipe, backend.kernels(), **options)).map(place.put)
    reference = backend_named("numpy").kernels()
    theirs = TrainState.create(recipe, networks(recipe, reference, **options))
    for _ in range(2):
        stand_in.settings.launches.clear()
        theirs, expected = update(recipe, theirs, batch, drawn, HYPER)
        ours, got = update(recipe, ours, there, drawn_there, HYPER)
        assert stand_in.settings.launches.count("adam_steps") == len(recipe.trained)
        for name, value in expected.values.items():
            assert got.values[name] == pytest.approx(float(value), rel=1e-5)
    back = ours.map(place.get)
    for part in vars(theirs.networks):
        pairs = zip(theirs.networks[part].params.arrays(), back.networks[part].params.arrays())
        for expected_array, array in pairs:
            np.testing.assert_allclose(array, expected_array, rtol=0, atol=1e-6, err_msg=part)


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
