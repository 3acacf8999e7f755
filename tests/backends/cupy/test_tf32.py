"""TF32: only where it is asked for, and then said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from qgf_ref import embedded_observations, estimator, load, sample
from qgf_ref.audit.run import audit
from qgf_ref.backends.cupy import device
from qgf_ref.backends.cupy import sampler as samplers
from qgf_ref.backends.engine import Engine, backend_named, require_backend
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from qgf_ref.provenance import provenance
from qgf_ref.training import loop, run
from tests.data.synthetic import write_dataset
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import small
from tests.training.conftest import tiny_config

SAID = "TF32 (backend cupy:tf32)"


def test_products_are_rounded_where_it_is_asked_for(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a handle of its own; before, between and after, float32 is float32."""
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", False)
    flow, obs, noise = small(dtype="float32")
    how: dict[str, Any] = {"weight": 0.1, "noise": noise}
    runs = {}
    for name in ("qgf", "qgf_jacobian_ortho"):  # recorded, and layer by layer
        expected = sample(flow, obs, estimator=name, **how)
        for backend in ("cupy", "cupy:tf32", "cupy"):
            got = sample(flow, obs, backend=backend, estimator=name, **how)
            runs[name, backend] = got
            away = abs(got - expected).max()
            # measured: 5e-4 and 2e-7
            assert (1e-5 < away < 1e-2) if backend == "cupy:tf32" else away < 1e-5
    assert stand_in.math_modes == {11: 0, 12: 3}
    assert capsys.readouterr().err.count("rounded to TF32") == 1


def test_few_rows_are_multiplied_in_float32(gpu: ModuleType) -> None:
    """The one launch has no products of cuBLAS."""
    flow, obs, noise = small(dtype="float32", rows=2)
    runs = [
        sample(flow, obs, weight=0.1, noise=noise, backend=name) for name in ("cupy", "cupy:tf32")
    ]
    np.testing.assert_array_equal(runs[0], runs[1])


def test_it_is_said_of_whatever_is_made(gpu: ModuleType) -> None:
    backend_named("cupy")
    assert "float32_products" not in provenance()
    assert Engine.of("cupy:tf32").backend.name == "cupy:tf32"
    assert provenance()["float32_products"] == SAID


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cupy:tf16", "unknown way of backend cupy 'cupy:tf16'; the valid ones are: cupy:tf32"),
        ("numba:tf32", "unknown way of backend numba 'numba:tf32'; the valid ones are: numba"),
        ("tf32", "unknown backend 'tf32'; the valid ones are: cupy:tf32, cupy, numba, numpy"),
        ("cuda", "unknown backend 'cuda'; the valid ones are: cupy, cupy:tf32, numba, numpy"),
        ("cuda:tf32", "unknown backend 'cuda:tf32'; the valid ones are: cupy:tf32, cupy, numba,"),
    ],
)
def test_another_way_is_one_sentence(name: str, message: str) -> None:
    for ask in (require_backend, backend_named):
        with pytest.raises(InputError, match=message):
            ask(name)


def test_float64_is_refused(gpu: ModuleType) -> None:
    flow, obs, noise = small()
    message = "cupy:tf32 rounds .* float32's products, and these networks are in float64"
    for name in ("qgf", "qgf_jacobian_ortho"):
        with pytest.raises(InputError, match=message):
            sample(flow, obs, weight=0.1, noise=noise, backend="cupy:tf32", estimator=name)
    with pytest.raises(InputError, match="the audit computes in float64, which backend cupy:tf32"):
        audit(load(), embedded_observations(), [estimator("qgf")], backend="cupy:tf32")


def test_an_older_gpu_has_none(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.cuda.Device, "compute_capability", "75")
    backend_named("cupy")
    with pytest.raises(InputError, match=r"of compute capability 7\.5, has no TF32"):
        backend_named("cupy:tf32")
    with pytest.raises(InputError, match="has no TF32"):
        device.require_tensor_cores(gpu)


def test_a_trace_says_it(gpu: ModuleType, tmp_path: Path) -> None:
    O, D = load().obs_dim, load().flat_action_dim
    rng = np.random.default_rng(0)
    given, out = tmp_path / "i.npz", tmp_path / "o.npz"
    np.savez(given, obs=rng.standard_normal((1, O)), noise=rng.standard_normal((1, D)))
    words = ["trace", "--input", str(given), "--out", str(out), "--weight", "0.1"]
    assert main([*words, "--backend", "cupy:tf32", "--dtype", "float32"]) == 0
    with np.load(out) as arrays:
        about = json.loads(str(arrays["metadata"]))
    assert (about["backend"], about["float32_products"]) == ("cupy:tf32", SAID)
    assert main([*words, "--backend", "cupy:tf32", "--dtype", "float64"]) == 2


def test_a_training_says_it_ever_after(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its record and in its state, also when it goes on without."""
    monkeypatch.setattr(run, "loss_curves", lambda *arguments: None)
    monkeypatch.setattr(loop, "VALIDATION_ROWS", 16)
    data = write_dataset(tmp_path, count=6, steps=41)
    config = tiny_config(data, updates=2, backend="cupy:tf32")
    run.start(config, tmp_path / "run")
    record = tmp_path / "run" / "train.json"
    about = json.loads(record.read_text())
    assert about["config"]["backend"] == "cupy:tf32"
    assert about["sessions"][0]["provenance"]["float32_products"] == SAID
    about["config"]["backend"] = "numpy"
    record.write_text(json.dumps(about))
    monkeypatch.setattr("qgf_ref.provenance._notes", {})  # another process
    run.resume(tmp_path / "run", updates=4)
    with safe_open(tmp_path / "run" / "state.safetensors", "np") as state:
        assert json.loads(state.metadata()["notes"]) == {"float32_products": SAID}
    run.start(replace(config, backend="numpy"), tmp_path / "plain")
    with safe_open(tmp_path / "plain" / "state.safetensors", "np") as state:
        assert "notes" not in state.metadata()
