"""Every mistake of the bank, made in the JAX port: it shows in the quantity that it is about.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`. Each mistake is another program
to compile: the smallest, and a third of each area, are in the quick run; the others are made with
`pytest -m "slow and peers"`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import small_checkpoint

pytest.importorskip("jax")
pytest.importorskip("flax")
pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation")]

import jax  # noqa: E402

from benchmarks.peers import jax_mistakes as bank  # noqa: E402
from benchmarks.peers import jax_mistakes_networks as networks  # noqa: E402
from benchmarks.peers import jax_mistakes_sampler as sampler  # noqa: E402
from tests.peers.test_jax_sampler import (  # noqa: E402
    BEST_OF,
    TOLERANCE,
    WEIGHT,
    best_of_error,
    expected,
    first_seen,
    inputs,
)


def probe(**options: Any) -> Checkpoint:
    """Square hidden kernels, O ≥ D, and H = 3 actions of A = 2: what `small_checkpoint` lacks."""
    ck = small_checkpoint(obs_dim=7, action_dim=6, hidden=(12, 12, 12), dtype="float32", **options)
    return replace(ck, options=replace(ck.options, horizon_length=3))


def with_output(params: MLPParams, kernel: float, bias: float) -> MLPParams:
    """The output layer scaled: 0 makes a network that is constant."""
    *hidden, out = params.layers
    return MLPParams((*hidden, replace(out, kernel=kernel * out.kernel, bias=bias * out.bias)))


def tied() -> Checkpoint:
    """v = 0, and members that are mirror images: at a = 0 they tie with opposite gradients."""
    ck = probe()
    first, *rest = ck.target_critic.map(lambda a: a[:1].repeat(2, axis=0)).layers
    mirror = first.kernel.copy()
    mirror[1, ck.obs_dim :] *= -1
    critic = MLPParams((replace(first, kernel=mirror), *rest))
    return ck.with_params(policy=with_output(ck.policy, 0, 0), target_critic=critic)


def indifferent() -> Checkpoint:
    """A critic to which all candidates are equal."""
    ck = probe()
    return ck.with_params(target_critic=with_output(ck.target_critic, 0, 1))


CHECKPOINTS: dict[str, Any] = {
    "activation-gelu": lambda: probe(activation="relu"),
    "ensemble-min": lambda: probe(aggregation="mean"),
    "ties-first": tied,
    "best-of-last": indifferent,
}
"""Mistakes that `probe()` cannot show, and a checkpoint that does."""


@functools.cache
def checkpoint_for(name: str) -> Checkpoint:
    found: Checkpoint = CHECKPOINTS.get(name, probe)()
    return found


SEEN_IN = {
    **dict.fromkeys((*networks.NETWORK, *networks.TIME), "v"),
    **dict.fromkeys(sampler.QUERY, "a1_hat"),
    **dict.fromkeys((*sampler.GRADIENT, *sampler.AGGREGATION), "g"),
    **dict.fromkeys(sampler.UPDATE, "a"),
    **dict.fromkeys(sampler.BEST_OF, "choice"),
    "layer-norm-member-0": "q",
    "layer-norm-member-0-forward": "q",
    "critic-norm-last-hidden-missing": "q",
    "critic-input-action-first": "q",
    "ensemble-axis-reshaped": "q",
    "gradient-bptt": "a1_hat",
    "critic-online": "q",
    "guidance-after-step": "a1_hat",
    "final-clip-missing": "action",
    "chunk-action-major": "action",
    "unknown-gelu-constant": "v",
    "unknown-layer-norm-eps-1e-4": "v",
    "unknown-gradient-softmin": "g",
    "unknown-gradient-momentum": "g",
    "unknown-query-clip-0.9": "a1_hat",
    "unknown-heun": "a",
    "unknown-weight-schedule": "a",
    "unknown-final-tanh": "action",
    "unknown-critic-offset": "q",
    "unknown-time-quantised": "v",
}
"""The quantity in which each mistake is seen first; "choice": only in the best of N."""

ONLY_GUIDED = {
    "query-guided-velocity",
    "guidance-without-dt",
    "weight-inverted",
    "weight-squared",
    "weight-integer",
    "guidance-missing",
    "guidance-convex",
    "unknown-weight-schedule",
}
"""Not seen at w = 0."""


AREAS = (
    *(networks.NETWORK, networks.TIME, sampler.QUERY, sampler.GRADIENT, sampler.AGGREGATION),
    *(sampler.UPDATE, sampler.BEST_OF, bank.HELD_OUT),
)
SMALLEST = ("query-clip-inside", "layer-norm-eps-1e-5", "time-float64")
"""Off by 1e-5, 6e-5 and 1e-4 here."""
QUICK = {*SMALLEST, *CHECKPOINTS, *(name for area in AREAS for name in list(area)[::3])}


def in_the_quick_run(name: str) -> Any:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


def test_every_mistake_has_its_place() -> None:
    assert SEEN_IN.keys() == {*bank.MISTAKES, *bank.HELD_OUT}
    assert not bank.MISTAKES.keys() & bank.HELD_OUT
    assert all(name.startswith("unknown-") for name in bank.HELD_OUT)
    assert set(SEEN_IN) == {name for area in AREAS for name in area}
    assert {SEEN_IN[name] for name in QUICK} == set(SEEN_IN.values())


@pytest.mark.parametrize("name", [in_the_quick_run(name) for name in SEEN_IN])
def test_a_mistake_is_seen_where_it_is(name: str) -> None:
    """And nowhere before. `small_checkpoint` as it is would not show kernels-transposed (no square
    kernel), chunk-action-major (H = 1) nor those of `CHECKPOINTS`.
    """
    ck = checkpoint_for(name)
    assert bank.applies(ck, name)
    obs, noise = inputs(ck)
    if name == "ties-first":
        noise = np.zeros_like(noise)
    weight = 0.0 if name == "weight-zero-as-default" else WEIGHT
    port = bank.broken(ck, name)
    place: str | None = SEEN_IN[name]
    if place == "choice":
        assert best_of_error(ck, port, BEST_OF) > 1e-2
        place = None
    assert first_seen(expected(ck, obs, noise, weight), port.trace(obs, noise, weight)) == place
    if name in ONLY_GUIDED:
        assert first_seen(expected(ck, obs, noise, 0.0), port.trace(obs, noise, 0.0)) is None


def test_the_defect_of_the_pinned_jax_leaves_the_gradient_right() -> None:
    ck = probe(seed=1)  # neither member is always the smaller one
    obs, noise = inputs(ck)
    port = bank.broken(ck, "layer-norm-member-0-forward")
    ours, theirs = expected(ck, obs, noise, WEIGHT), port.trace(obs, noise, WEIGHT)
    assert abs(theirs["g"] - ours["g"]).max() < TOLERANCE["g"]
    assert abs(theirs["q"][:, 0] - ours["q"][:, 0]).max() < TOLERANCE["q"]
    assert best_of_error(ck, port, 2) > 1e-2


@pytest.mark.parametrize(
    "name",
    [
        "layer-norm-member-0-forward",
        "gradient-batch-mean",
        "ensemble-min-of-batch-sum",
    ],
)
def test_a_mistake_that_one_row_does_not_show(name: str) -> None:
    ck = probe()
    obs, noise = inputs(ck, rows=1)
    theirs = bank.broken(ck, name).trace(obs, noise, WEIGHT)
    assert first_seen(expected(ck, obs, noise, WEIGHT), theirs) is None


def rounded(x: Array, bits: int) -> Array:
    """To so many explicit mantissa bits, ties to even, by arithmetic."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    scale = 2.0 ** (bits + 1)
    return np.ldexp(np.round(fraction * scale) / scale, exponent)


@pytest.mark.parametrize("bits", [10, 7])
def test_rounded_products_forward_and_backward(bits: int) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((5, 7)), rng.standard_normal((7, 4))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    x[0, 0], kernel[0, 0] = 1 + 2.0 ** -(bits + 1), 1 + 3 * 2.0 ** -(bits + 1)
    y_bar = rng.standard_normal((5, 4)).astype(np.float32)
    dot = networks._rounded_dot(bits)
    y, pull = jax.vjp(lambda x: dot(x, kernel, None), x)
    np.testing.assert_allclose(y, rounded(x, bits) @ rounded(kernel, bits), atol=2e-6)
    (x_bar,) = pull(y_bar)
    np.testing.assert_allclose(x_bar, rounded(y_bar, bits) @ rounded(kernel, bits).T, atol=2e-6)


def test_what_applies() -> None:
    small, relu = small_checkpoint(), small_checkpoint(activation="relu", aggregation="mean")
    every = [*bank.MISTAKES, *bank.HELD_OUT]
    assert {n for n in every if not bank.applies(small, n)} == {
        *("activation-gelu", "kernels-transposed", "ensemble-min", "chunk-action-major"),
    }
    assert not {
        *("gelu-erf", "gelu-quick", "activation-relu", "activation-silu", "ensemble-mean"),
        *("ensemble-max", "ties-first", "best-of-mean", "unknown-gelu-constant"),
    } & {n for n in every if bank.applies(relu, n)}
    assert bank.applies(relu, "ensemble-min")
    one = small_checkpoint(members=1, steps=1, obs_dim=2, action_dim=3)
    assert not {
        *("layer-norm-member-0", "ensemble-axis-reshaped", "time-index", "steps-minus-1"),
        *("gradient-of-observation", "best-of-mean", "query-factor-1", "unknown-time-quantised"),
    } & {n for n in every if bank.applies(one, n)}


def test_an_unknown_name_lists_the_known() -> None:
    ck = small_checkpoint(dtype="float32")
    with pytest.raises(InputError, match=r"unknown mistake 'gelu'.*gelu-erf"):
        bank.broken(ck, "gelu")
    with pytest.raises(InputError, match=r"unknown mistake"):
        bank.applies(ck, "gelu")
