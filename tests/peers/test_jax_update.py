"""The whole training update, again, by JAX: losses, parameters after Adam, target average.

float32 on both sides, because JAX's double precision is a switch of the whole process.
Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import losses
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import Batch
from qgf_ref.ops.linear import linear, linear_vjp, linear_vjp_params
from tests.conftest import small_checkpoint, states

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation")]
pytest.importorskip("jax")

from benchmarks.peers import compare, jax_update  # noqa: E402


def samples(ck: Any, rows: int = 64, count: int = 3) -> list[compare.Sample]:
    rng = np.random.default_rng(3)
    found = []
    for n in range(count):
        obs, action = states(ck, rows, seed=2 * n)
        next_obs, _ = states(ck, rows, seed=2 * n + 1)
        masks, valid = rng.uniform(size=(2, rows)) < 0.8
        batch = Batch(obs, action, next_obs, rng.standard_normal(rows), masks, valid)
        drawn = {"x0": rng.standard_normal(action.shape), "t": rng.integers(0, 7, rows) / 6}
        found.append(
            (batch.astype("float32"), {name: a.astype("float32") for name, a in drawn.items()})
        )
    return found


class Pair:
    """A checkpoint, its batches, and a JAX peer that is compiled once."""

    def __init__(self, **options: Any) -> None:
        self.ck = small_checkpoint(dtype="float32", **options)
        self.hyper = replace(self.ck.hyperparameters(), horizon=3)
        self.data = samples(self.ck)
        self.theirs = compare.Jax(self.ck, self.hyper)

    def disagreement(self, **mistake: Any) -> dict[str, float]:
        """Of three updates from the start, with ours told otherwise."""
        self.theirs.state = jax_update.initial_state(self.ck)
        ours = compare.Ours(self.ck, replace(self.hyper, **mistake))
        return compare.disagreement(self.ck, ours, self.theirs, self.data)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def agree(found: dict[str, float]) -> None:
    """Measured: losses 3e-7 (relative), changes of the parameters 1.8e-5 (relative; the target
    critic's, which has hardly moved), parameters 1.2e-7 (absolute).
    """
    assert found["loss"] < 2e-6
    assert found["change"] < 1e-4
    assert found["parameter"] < 1e-6
    compare.require_equal(found)


def test_three_updates_agree(pair: Pair) -> None:
    agree(pair.disagreement())


def test_three_updates_agree_with_other_options() -> None:
    agree(Pair(activation="relu", aggregation="mean", members=3).disagreement())


@pytest.mark.parametrize(
    "mistake",
    [
        {"discount": 0.85},
        {"horizon": 2},
        {"expectile": 0.79},
        {"tau": 0.00505},
        {"learning_rate": 3.03e-4},
    ],
    ids=str,
)
def test_a_mistake_is_noticed(pair: Pair, mistake: dict[str, float]) -> None:
    with pytest.raises(SystemExit, match="do not compute the same"):
        compare.require_equal(pair.disagreement(**mistake))


def test_the_checkpoint_survives_that_jax_reuses_its_buffers(pair: Pair) -> None:
    before = [a.copy() for n in jax_update.NETWORKS for a in getattr(pair.ck, n).arrays()]
    pair.disagreement()
    after = [a for n in jax_update.NETWORKS for a in getattr(pair.ck, n).arrays()]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_an_activation_that_the_peer_lacks() -> None:
    ck = small_checkpoint(dtype="float32", activation="mish")
    with pytest.raises(InputError, match=r"mish.*gelu, relu"):
        jax_update.jitted_update(ck, ck.hyperparameters())


def test_counted_operations_are_the_matrix_products_made() -> None:
    """Against the products that a real update runs, less the input cotangents of the networks'
    first layers, which it computes and does not need.
    """
    ck = small_checkpoint(dtype="float32")
    (batch, drawn), made, unneeded = samples(ck)[0], [0], [0]
    inputs = {ck.policy.in_features, ck.critic.in_features, ck.value.in_features}

    def counting(primitive: Any, *args: Any, **kwargs: Any) -> Any:
        if primitive is linear:
            made[0] += 2 * len(batch.obs) * args[1].size
        elif primitive in (linear_vjp, linear_vjp_params):
            kernel = args[1].kernel
            made[0] += 2 * len(batch.obs) * kernel.size
            if primitive is linear_vjp and kernel.shape[-2] in inputs:
                unneeded[0] += 2 * len(batch.obs) * kernel.size
        return primitive(*args, **kwargs)

    losses(RECIPE, ck.networks(kernels=counting), batch, drawn, ck.hyperparameters())
    assert compare.gemm_flops(ck, len(batch.obs)) == made[0] - unneeded[0]
