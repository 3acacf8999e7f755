"""Losses on logits: complex step, closed forms, saturated probabilities, planted errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import DerivativeMismatch, check_vjp
from qgf_ref.errors import InputError
from qgf_ref.ops.logits import (
    CLIPPED,
    asymmetric_bce,
    bce,
    logit_of,
    logit_pinball,
    probability,
    reduced_logit,
)

RNG = np.random.default_rng(0)
Z, VALID = 3 * RNG.standard_normal((2, 9)), np.arange(9.0) % 4 != 0
LOGIT = 3 * RNG.standard_normal(9)
Y = probability(LOGIT)[0]
LOSSES: dict[str, Callable[[Array], tuple[Any, Array]]] = {
    "bce": lambda z: bce(z, Y, VALID),
    "asymmetric": lambda z: asymmetric_bce(z, Y, VALID, 0.8),
    "pinball": lambda z: logit_pinball(z, LOGIT, VALID, 0.8),
    "clipped": lambda z: logit_pinball(z, LOGIT, VALID, 0.8, 1.5),
}


def mean_of(loss: Callable[[Array], tuple[Any, Array]]) -> tuple[Any, Any]:
    """L as a function, and its vjp."""
    return lambda z: np.asarray(loss(z)[0]), lambda z, bar: bar * loss(z)[1]


@pytest.mark.parametrize("name", LOSSES)
def test_cotangents(name: str) -> None:
    value, vjp = mean_of(LOSSES[name])
    check_vjp(value, vjp, Z, tolerance=1e-13)
    check_vjp(value, vjp, Z, oracle="central_difference", tolerance=1e-7)
    with pytest.raises(DerivativeMismatch):
        check_vjp(value, lambda z, bar: vjp(z, bar) * (1 + 1e-9 * z), Z, tolerance=1e-11)


def test_definitions() -> None:
    q = 1 / (1 + np.exp(-Z))
    plain = -Y * np.log(q) - (1 - Y) * np.log(1 - q)
    weight = VALID * np.where(q <= Y, 0.8, 0.2)
    far = np.log(1 - 1e-5) - np.log(1e-5)
    assert abs(CLIPPED - far) < 1e-10
    for name, expected in (
        ("bce", VALID * plain),
        ("asymmetric", weight * plain),
        ("pinball", weight * abs(Z - LOGIT)),
        ("clipped", weight * abs(Z - np.clip(LOGIT, -1.5, 1.5))),
    ):
        assert abs(LOSSES[name](Z)[0] - expected.mean()) < 1e-14, name
    half, both = asymmetric_bce(Z, Y, 1, 0.5), bce(Z, Y)
    assert half[0] == both[0] / 2 and np.array_equal(half[1], both[1] / 2)
    with pytest.raises(InputError, match="lcb"):
        reduced_logit(Z, "lcb=1")


def test_kinks() -> None:
    """T11: the weight is κ at equality; the pinball's derivative is 0 there, the bce's is."""
    z = np.array([0.0, 1.0])
    loss, bar = logit_pinball(z, z, 1, 0.9)
    assert loss == 0 and not bar.any()
    y = probability(z)[0]
    entropy = -(y * np.log(y) + (1 - y) * np.log(1 - y))
    loss, bar = asymmetric_bce(z, y, 1, 0.9)
    assert not bar.any() and abs(loss / (0.9 * entropy.mean()) - 1) < 1e-15


def test_minimisers() -> None:
    """The κ-quantile of the logits, and the κ-expectile of the probabilities."""
    logits = RNG.standard_normal(99)
    quantile = np.quantile(logits, 0.8, method="inverted_cdf")
    bars = [
        logit_pinball(np.full(99, quantile + e), logits, 1, 0.8)[1].sum() for e in (-1e-9, 1e-9)
    ]
    assert bars[0] < 0 < bars[1]
    y = probability(logits)[0]
    below, above = -5.0, 5.0
    for _ in range(60):
        middle = (below + above) / 2
        right = asymmetric_bce(np.full(99, middle), y, 1, 0.8)[1].sum() < 0
        below, above = (middle, above) if right else (below, middle)
    e = probability(np.array(below))[0]
    assert abs((np.where(y >= e, 0.8, 0.2) * (y - e)).sum()) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_probabilities(dtype: str) -> None:
    """T9: σ(z) is 1 in float32 from 16.64 on, and its logit ∞; ours is z, and the loss finite."""
    z = np.array([[20.0, -60, 45, 300], [25, -50, 45, 200]], dtype)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(reduced_logit(z, "min"), z.min(axis=0))
        mean = reduced_logit(z, "mean")
        q, r = 1 / (1 + np.exp(-z.astype(float))), 1 / (1 + np.exp(z.astype(float)))
        exact = np.log(q.sum(axis=0)) - np.log(r.sum(axis=0))  # r = 1 − q, without a difference
        np.testing.assert_allclose(mean, exact, rtol=4 * np.finfo(dtype).eps)
        loss, bar = logit_pinball(np.zeros(4, dtype), z.min(axis=0), 1, 0.9)
        assert np.isfinite(loss) and np.abs(bar).max() <= 0.9 / 4
        saturated = bce(np.array([40.0], dtype), np.ones(1, dtype))[0]
        np.testing.assert_allclose(saturated, np.exp(-40.0), rtol=4 * np.finfo(dtype).eps * 40)
    assert bar.dtype == mean.dtype == dtype
    assert logit_of(np.ones(1, dtype)) == np.inf
    # T10: clipped targets of 1 reach 11.5129 in both dtypes
    loss, _ = logit_pinball(np.zeros(1, dtype), logit_of(np.ones(1, dtype)), 1, 1.0, CLIPPED)
    assert abs(loss - 11.512915464920228) < 1e-6


def test_t8_the_mean_is_of_probabilities() -> None:
    q = probability(Z)[0]
    np.testing.assert_allclose(reduced_logit(Z, "mean"), logit_of(q.mean(axis=0)), rtol=1e-13)
    assert abs(reduced_logit(Z, "mean") - Z.mean(axis=0)).max() > 0.1
    slope = (probability(Z + 1e-30j)[0]).imag / 1e-30
    np.testing.assert_allclose(probability(Z)[1], slope, rtol=1e-13)
