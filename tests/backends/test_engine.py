"""Backends by name, engines, and what both samplers do with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from qgf_ref import sample, trace
from qgf_ref.backends import engine as engines
from qgf_ref.backends.engine import Engine, backend_named, backend_names
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import learned_estimator_names
from tests.conftest import small_checkpoint


def test_a_backend_is_a_folder() -> None:
    folders = {path.parent.name for path in Path(engines.__file__).parent.glob("*/backend.py")}
    assert set(backend_names()) == folders and backend_names()[0] == "numpy"
    for name in backend_names():
        if name == "cupy":  # needs a GPU: tests/backends/cupy
            continue
        backend = backend_named(name)
        assert backend.name == name
        assert pickle.loads(pickle.dumps(Engine(backend))) == Engine(backend)  # noqa: S301


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(InputError, match=r"unknown backend 'jax'.*numba, numpy"):
        Engine.of("jax")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    backend_named.cache_clear()
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "numba" else name)
    with pytest.raises(InputError, match=r'backend numba needs numba: pip install "qgf_ref\[numba'):
        backend_named("numba")
    assert backend_named("numpy")


def test_threads() -> None:
    assert Engine.of("numba", 3).concurrency == 3
    assert Engine.of(Engine.of("numba", 3), 2).threads == 2
    assert Engine.of("numba").single.threads == 1
    assert Engine.of("numpy").single.threads is None and Engine.of("numpy").concurrency == 1
    for name, threads, message in (
        ("numpy", 2, "threads is for backend numba, not numpy"),
        ("numba", 0, "threads must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            Engine.of(name, threads)


@pytest.mark.parametrize("name", learned_estimator_names())
def test_traces_agree_in_every_quantity(name: str) -> None:
    """Measured 3e-14 at most, of qgf_jacobian_ortho, and 2e-15 of the others."""
    checkpoint = small_checkpoint(1)
    rng = np.random.default_rng(2)
    obs = rng.standard_normal((5, checkpoint.obs_dim))
    noise = rng.standard_normal((5, checkpoint.flat_action_dim))
    how = {"estimator": name, "weight": 0.3, "noise": noise}
    expected = trace(checkpoint.flow, obs, **how)  # type: ignore[arg-type]
    for threads in (1, 2):
        traced = trace(checkpoint.flow, obs, backend="numba", threads=threads, **how)  # type: ignore[arg-type]
        for quantity, array in expected.arrays().items():
            np.testing.assert_allclose(
                traced.arrays()[quantity], array, rtol=0, atol=2e-13, err_msg=quantity
            )
    action = sample(checkpoint.flow, obs, backend=Engine.of("numba", 1), **how)  # type: ignore[arg-type]
    np.testing.assert_array_equal(action, traced.action)
