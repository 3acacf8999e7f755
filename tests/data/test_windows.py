"""Chunk windows against a literal, one-row-at-a-time version of official.md's section 2."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.data.windows import Transitions, sample_starts, windows


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
