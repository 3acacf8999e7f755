"""The same flow called again: what a sampler and a checkpoint keep from call to call."""

from __future__ import annotations

import pickle
import weakref

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.numba.sampler import compiled_sampler
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint, states

ROUNDING = 1e-12
"""The largest difference measured is 4e-15."""


def require_right(flow: GuidedFlow, obs: Array, noise: Array, best_of: int = 1) -> None:
    both = [
        sample(flow, obs, weight=0.1, noise=noise, best_of=best_of, backend=backend)
        for backend in ("numpy", "numba")
    ]
    np.testing.assert_allclose(both[1], both[0], rtol=0, atol=ROUNDING)


def test_other_batches_and_draws(checkpoint: Checkpoint) -> None:
    """What `run_block` is given is kept from the last call of so many rows."""
    flow = checkpoint.flow
    obs, noise = states(checkpoint, 6)
    for _ in range(2):
        for rows, draws in ((3, 1), (3, 2), (6, 1), (2, 3), (1, 6), (6, 1), (1, 1)):
            require_right(flow, obs[:rows], noise[: rows * draws], draws)
            require_right(flow, obs[::-1][:rows], noise[::-1][: rows * draws], draws)


def test_another_object_at_the_same_place_is_another_flow() -> None:
    """An id may be that of an object which is gone."""
    flows = [small_checkpoint(seed).flow for seed in range(2)]
    obs, noise = states(small_checkpoint(), 2)
    for flow in flows:
        require_right(flow, obs, noise)
    latest = compiled_sampler._latest
    (of_first,) = (k for k, (whole, _) in latest.items() if whole() is flows[0])
    (of_second,) = (k for k, (whole, _) in latest.items() if whole() is flows[1])
    latest[of_second] = latest[of_first]
    require_right(flows[1], obs, noise)
    assert latest[of_second][0]() is flows[1]


def test_what_is_forgotten_is_made_again(checkpoint: Checkpoint) -> None:
    flow, (obs, noise) = checkpoint.flow, states(checkpoint, 2)
    require_right(flow, obs, noise)
    kept = next(known for whole, known in compiled_sampler._latest.values() if whole() is flow)
    before = weakref.ref(kept())
    alive = before()
    compiled_sampler.samplers.clear()
    require_right(flow, obs, noise)
    assert alive not in compiled_sampler.samplers.values()
    assert len(compiled_sampler.samplers) == 1


def test_a_checkpoint_keeps_the_flow_that_acts_and_takes_it_nowhere(checkpoint: Checkpoint) -> None:
    bare = len(pickle.dumps(checkpoint))
    flow = checkpoint.acting_flow
    assert checkpoint.acting_flow is flow
    assert len(pickle.dumps(checkpoint)) == bare
    again = pickle.loads(pickle.dumps(checkpoint))  # noqa: S301
    assert "acting_flow" not in vars(again)
    single = checkpoint.astype("float32")
    assert single.acting_flow.field.dtype == np.float32
    assert (flow.time_precision, single.acting_flow.time_precision) == ("exact", "float32")
