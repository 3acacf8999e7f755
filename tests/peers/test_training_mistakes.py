"""Mistakes planted in a JAX training step, independent of the bank, are named by the cross-check.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from typing import Any

import pytest

from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.update.check import TrainingReport, check_losses
from qgf_ref.crosscheck.update.diagnosis import LIMIT
from qgf_ref.crosscheck.update.inputs import EXPOSING
from qgf_ref.crosscheck.update.mistakes import MISTAKES
from tests.conftest import small_checkpoint

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation")]
pytest.importorskip("jax")

import jax  # noqa: E402

from benchmarks.peers.jax_training_mistakes import (  # noqa: E402
    HELD_OUT,
    PLANTED,
    training_step,
)
from benchmarks.peers.jax_update import Update  # noqa: E402


class Jitted(Update):
    """For checkpoints that are used once: one program is sooner compiled than each operation."""

    gradients = jax.jit(Update.gradients, static_argnums=0)
    advance = jax.jit(Update.advance, static_argnums=0)


CK = small_checkpoint(hidden=(20, 16), members=3, dtype="float32")


def refused(peer: type[Update], updates: int = 2) -> TrainingReport:
    with pytest.raises(CrossCheckError) as error:
        check_losses(
            training_step(CK, EXPOSING, updates, peer), CK, hyper=EXPOSING, updates=updates
        )
    assert isinstance(error.value.report, TrainingReport)
    return error.value.report


def test_every_mistake_of_the_bank_is_planted() -> None:
    assert list(PLANTED) == [mistake.name for mistake in MISTAKES]


@pytest.mark.parametrize(
    "options",
    [
        {"members": 3},
        {"activation": "relu", "aggregation": "mean", "steps": 7},
        {"hidden": (40,), "members": 1, "obs_dim": 9, "action_dim": 1, "steps": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("updates", [0, 3])
def test_the_right_peer_passes(options: dict[str, Any], updates: int) -> None:
    """Measured over twenty architectures: at most 2.3 times rounding."""
    ck = small_checkpoint(dtype="float32", **options)
    step = training_step(ck, EXPOSING, updates, Jitted)
    report = check_losses(step, ck, hyper=EXPOSING, updates=updates)
    assert max(c.ratio for c in report.comparisons) < 0.6 * LIMIT


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_named_and_nothing_else(name: str) -> None:
    report = refused(PLANTED[name])
    assert report.diagnosis is not None
    assert [fit.name for fit in report.diagnosis.fits] == [name]


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_mistake_of_no_bank_is_unknown(name: str) -> None:
    peer, first = HELD_OUT[name]
    report = refused(peer)
    assert report.diagnosis is not None and report.diagnosis.fits == ()
    assert str(report.first).startswith(first)
