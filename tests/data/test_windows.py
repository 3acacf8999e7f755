"""Chunk windows against a literal, one-row-at-a-time version of official.md's section 2."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.data.windows import Transitions, sample_starts, windows
from tests.conftest import Golden


def transitions(rows: int, seed: int = 0) -> Transitions:
    rng = np.random.default_rng(seed)
    terminals = (rng.uniform(size=rows) < 0.2).astype(np.float32)
    return Transitions(
        rng.standard_normal((rows, 3)),
        rng.standard_normal((rows, 3)),
        rng.standard_normal((rows, 2)),
        rng.standard_normal(rows),
        (rng.uniform(size=rows) < 0.7).astype(np.float32),
        terminals,
    )


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_against_the_literal_definition(horizon: int) -> None:
    data, gamma = transitions(60), 0.9
    starts = np.arange(60 - horizon + 1)
    batch = windows(data, starts, horizon, gamma)
    for row, start in enumerate(starts):
        reward, mask, ended = 0.0, 1.0, False
        next_obs = None
        for i in range(horizon):
            valid = not ended
            if valid:
                reward += gamma**i * data.rewards[start + i]
                mask = min(mask, data.masks[start + i])
                next_obs = data.next_observations[start + i]
            ended = ended or bool(data.terminals[start + i])
        assert batch.valid[row] == valid
        assert batch.masks[row] == mask
        np.testing.assert_allclose(batch.rewards[row], reward, rtol=1e-12)
        np.testing.assert_array_equal(batch.next_obs[row], next_obs)
        np.testing.assert_array_equal(batch.obs[row], data.observations[start])
        chunk = data.actions[start : start + horizon]
        np.testing.assert_array_equal(batch.action[row], chunk.ravel())


def test_a_window_that_ends_on_the_terminal_is_valid() -> None:
    data = transitions(10)
    data.terminals[:] = 0
    data.terminals[4] = 1
    assert windows(data, np.array([2, 3, 5]), 3, 0.9).valid.tolist() == [1, 0, 1]


def test_starts_reach_both_ends() -> None:
    data = transitions(12)
    starts = sample_starts(np.random.default_rng(0), data, 2000, 5)
    assert (starts.min(), starts.max()) == (0, 7)
    with pytest.raises(InputError, match="13 transitions"):
        sample_starts(np.random.default_rng(0), data, 1, 13)


def test_the_golden_batches(golden: Golden) -> None:
    """Rebuild the transitions behind each window of the official batch; what lies beyond an
    episode's end is filled with values that must not matter.
    """
    batch = golden.npz("train_step_float32")
    gamma = golden.load().hyperparameters().discount
    part = {k.removeprefix("batch/"): v for k, v in batch.items() if k.startswith("batch/")}
    rows, horizon = part["rewards"].shape
    valid = part["valid"] > 0
    steps = np.diff(part["rewards"], prepend=0, axis=1) / gamma ** np.arange(horizon)
    seen = np.repeat(part["observations"][:, None], horizon, axis=1)
    data = Transitions(
        observations=seen.reshape(rows * horizon, -1),
        next_observations=np.where(valid[..., None], part["next_observations"], 1e6).reshape(
            rows * horizon, -1
        ),
        actions=part["actions"].reshape(rows * horizon, -1),
        rewards=np.where(valid, steps, 1e6).ravel(),
        masks=np.where(valid, part["masks"], 0).ravel(),
        terminals=np.diff(part["terminals"], prepend=0, axis=1).ravel(),
    )
    ours = windows(data, horizon * np.arange(rows), horizon, gamma)
    np.testing.assert_array_equal(ours.obs, part["observations"])
    np.testing.assert_array_equal(ours.action, part["actions"].reshape(rows, -1))
    # beyond an episode's end the golden numbers are made up (official.md has them frozen), and
    # carry no weight
    whole = valid.all(axis=1)
    np.testing.assert_array_equal(ours.next_obs[whole], part["next_observations"][whole, -1])
    np.testing.assert_array_equal(ours.valid, part["valid"][:, -1])
    np.testing.assert_array_equal(ours.masks[whole], part["masks"][whole, -1])
    # sums of up to five float64 numbers, taken apart and put together again
    expected = part["rewards"][whole, -1]
    np.testing.assert_allclose(ours.rewards[whole], expected, rtol=1e-14, atol=1e-14)
    assert horizon == 1 or not valid.all(), "some window must cross an episode's end"
