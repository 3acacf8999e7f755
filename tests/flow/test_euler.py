"""The linear path, the time grid, and the rollout with its products."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.errors import InputError
from qgf_ref.flow.euler import rollout, rollout_jvp, rollout_vjp
from qgf_ref.flow.path import interpolate, sample_times, time_grid, velocity_target
from tests.conftest import small_checkpoint, states


def test_path_runs_from_noise_to_action() -> None:
    rng = np.random.default_rng(0)
    x0, x1 = rng.standard_normal((2, 3, 4))
    np.testing.assert_array_equal(interpolate(x0, x1, np.zeros(3)), x0)
    np.testing.assert_array_equal(interpolate(x0, x1, np.ones(3)), x1)
    slope = (interpolate(x0, x1, np.full(3, 0.7)) - interpolate(x0, x1, np.full(3, 0.2))) / 0.5
    np.testing.assert_allclose(slope, velocity_target(x0, x1), atol=1e-14)


def test_time_grid() -> None:
    assert time_grid(4) == (0, 0.25, 0.5, 0.75)
    single = time_grid(7, "float32")
    assert single[6] == float(np.float32(6) * np.float32(1 / 7)) != float(np.float32(6 / 7))
    for bad in (0, -1, 2.0, True, "10"):
        with pytest.raises(InputError, match="denoise_steps"):
            time_grid(bad)  # type: ignore[arg-type]


def test_training_times_include_both_ends() -> None:
    t = sample_times(np.random.default_rng(0), 5000, 10)
    np.testing.assert_allclose(np.unique(t), np.arange(11) / 10, atol=1e-16)
    assert abs((t == 1).mean() - 1 / 11) < 0.02


@pytest.mark.parametrize("start", [0, 3, 5])
def test_rollout_products(start: int) -> None:
    ck = small_checkpoint(steps=6)
    field, (obs, action) = ck.flow.field, states(ck, 4)

    def run(a: np.ndarray) -> tuple[np.ndarray, object]:
        return rollout(field, obs, a, time_grid(6), start=start)

    def jvp(a: np.ndarray, u: np.ndarray) -> np.ndarray:
        return rollout_jvp(field, u, run(a)[1])  # type: ignore[arg-type]

    def vjp(a: np.ndarray, u: np.ndarray) -> np.ndarray:
        return rollout_vjp(field, u, run(a)[1])  # type: ignore[arg-type]

    check_jvp(lambda a: run(a)[0], jvp, action, tolerance=5e-14)
    check_vjp(lambda a: run(a)[0], vjp, action, tolerance=5e-14)
    check_adjoint(lambda a: run(a)[0], jvp, vjp, action, tolerance=2e-15)


def test_rollout_is_euler() -> None:
    ck = small_checkpoint(steps=3)
    obs, action = states(ck, 2)
    expected = action
    for k in range(3):
        expected = expected + ck.flow.field.forward(obs, expected, k / 3)[0] / 3
    actual, _ = rollout(ck.flow.field, obs, action, time_grid(3))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-15)
