"""The JAX peer of the sampler: right as it is, and wrong in the quantity that a mistake is about.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.sampling import sample, trace
from tests.conftest import Golden, small_checkpoint

pytestmark = pytest.mark.peers
pytest.importorskip("jax")
pytest.importorskip("flax")

import jax  # noqa: E402

from benchmarks.peers import jax_mistakes as bank  # noqa: E402
from benchmarks.peers import jax_mistakes_networks as networks  # noqa: E402
from benchmarks.peers import jax_mistakes_sampler as sampler  # noqa: E402
from benchmarks.peers import jax_sampler  # noqa: E402
from benchmarks.peers.jax_sampler import ESTIMATORS, JaxSampler  # noqa: E402

Trace = dict[str, Array]
ROWS, BEST_OF, WEIGHT = 16, 4, 0.3
TOLERANCE = {"a": 3e-6, "v": 6e-6, "a1_hat": 4e-6, "q": 1e-5, "g": 2e-5, "action": 2e-6}
"""Of the right port. Measured, on the checkpoints and estimators of this file: a 6.5e-7, v 1.0e-6,
a1_hat 6.0e-7, q 2.0e-6, g 4.2e-6, action 4.8e-7 (after 6 to 10 steps). A mistake must be twice as
large, and most are 1e4 times that: the smallest ones are query-clip-inside (1e-5),
layer-norm-eps-1e-5 (6e-5 here) and time-float64 (1e-4).
"""


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
    return replace(ck, policy=with_output(ck.policy, 0, 0), target_critic=critic)


def indifferent() -> Checkpoint:
    """A critic to which all candidates are equal."""
    ck = probe()
    return replace(ck, target_critic=with_output(ck.target_critic, 0, 1))


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


def inputs(ck: Checkpoint, rows: int = ROWS) -> tuple[Array, Array]:
    """obs and noise, some far out and some near zero, exact in float32."""
    rng = np.random.default_rng(5)
    obs = rng.standard_normal((ROWS, ck.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((ROWS, ck.flat_action_dim)).astype(np.float32)
    noise[:4] *= 3
    noise[4:8] *= 0.3
    return obs[:rows], noise[:rows]


def flow(ck: Checkpoint) -> Any:
    return ck.astype("float64").guided_flow(embedding="float32")


def expected(
    ck: Checkpoint, obs: Array, noise: Array, weight: float, estimator: str = "qgf"
) -> Trace:
    x, a_0, w = obs.astype(np.float64), noise.astype(np.float64), float(np.float32(weight))
    return trace(flow(ck), x, noise=a_0, weight=w, estimator=estimator).arrays()


def errors(ours: Trace, theirs: Trace) -> list[tuple[str, float]]:
    """Largest differences in the order of computation: a, v, a1_hat, q, g by step, the action."""
    found = [
        (name, float(abs(theirs[name][k] - ours[name][k]).max()))
        for k in range(len(ours["a"]))
        for name in ("a", "v", "a1_hat", "q", "g")
    ]
    return [*found, ("action", float(abs(theirs["action"] - ours["action"]).max()))]


def first_seen(ours: Trace, theirs: Trace) -> str | None:
    """The first quantity that is not within tolerance; it must then be off by twice that."""
    for name, error in errors(ours, theirs):
        if not error <= TOLERANCE[name]:
            assert error > 2 * TOLERANCE[name], f"{name} is off by {error}, which is neither"
            return name
    return None


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_port_is_right(estimator: str) -> None:
    ck = small_checkpoint(dtype="float32")
    port = JaxSampler(ck, estimator=estimator)
    for rows in (1, ROWS):
        obs, noise = inputs(ck, rows)
        for weight in (0.3, 0.0):
            ours = expected(ck, obs, noise, weight, estimator)
            assert first_seen(ours, port.trace(obs, noise, weight)) is None


@pytest.mark.parametrize(
    "options",
    [
        *({"activation": name} for name in ("relu", "silu", "tanh", "elu", "mish")),
        {"aggregation": "mean", "members": 4, "steps": 10},
        {"members": 1, "steps": 7},
    ],
    ids=str,
)
def test_the_port_is_right_with_other_options(options: dict[str, Any]) -> None:
    ck = small_checkpoint(dtype="float32", **options)
    obs, noise = inputs(ck)
    ours = expected(ck, obs, noise, WEIGHT)
    assert first_seen(ours, JaxSampler(ck).trace(obs, noise, WEIGHT)) is None


def test_denoise_steps_can_be_chosen() -> None:
    ck = small_checkpoint(dtype="float32", steps=6)
    obs, noise = inputs(ck)
    ours = expected(replace(ck, options=replace(ck.options, denoise_steps=3)), obs, noise, WEIGHT)
    theirs = JaxSampler(ck, denoise_steps=3).trace(obs, noise, WEIGHT)
    assert len(theirs["a"]) == 3
    assert first_seen(ours, theirs) is None


def test_the_trace_is_float32_and_named_as_ours() -> None:
    ck = small_checkpoint(dtype="float32")
    obs, noise = inputs(ck)
    ours = expected(ck, obs, noise, WEIGHT)
    theirs = JaxSampler(ck).trace(obs, noise, WEIGHT)
    assert {n: x.shape for n, x in theirs.items()} == {n: x.shape for n, x in ours.items()}
    assert {x.dtype for x in theirs.values()} == {np.dtype(np.float32)}


def best_of_error(ck: Checkpoint, port: JaxSampler, best_of: int) -> float:
    """The largest difference of the chosen actions."""
    obs, noise = inputs(ck)
    obs, w = obs[: ROWS // best_of], float(np.float32(WEIGHT))
    x, a_0 = obs.astype(np.float64), noise.astype(np.float64)
    ours = sample(flow(ck), x, noise=a_0, weight=w, best_of=best_of)
    return float(abs(port.sample(obs, noise, WEIGHT, best_of) - ours).max())


@pytest.mark.parametrize("best_of", [1, BEST_OF])
def test_the_best_of_n_is_right(best_of: int) -> None:
    ck = small_checkpoint(dtype="float32")
    assert best_of_error(ck, JaxSampler(ck), best_of) < TOLERANCE["action"]


def test_the_port_is_right_on_the_golden_cases(golden_official: Golden) -> None:
    """Against the official float32 actions, and our float64 traces. Official: measured 3.6e-7."""
    ck, official = golden_official.load("float32"), golden_official.official
    obs, noise = official["obs"].astype(np.float32), official["noise"].astype(np.float32)
    for key in (key for key in official if key.startswith("official/")):
        _, method, setting = key.split("/")
        if method == "grad_step":
            continue
        weight = float(setting.removeprefix("w"))
        port = JaxSampler(ck, estimator="qgf" if method == "qgf_bfn4" else method)
        if method == "qgf_bfn4":
            action = port.sample(obs, official["bfn_noise"], weight, 4)
        else:
            theirs = port.trace(obs, noise, weight)
            action = theirs["action"]
            assert first_seen(expected(ck, obs, noise, weight, method), theirs) is None
        assert abs(action - official[key]).max() < TOLERANCE["action"]


def test_the_same_functions_are_not_compiled_twice() -> None:
    ck = small_checkpoint(dtype="float32", steps=5)
    obs, noise = inputs(ck)
    JaxSampler(ck).trace(obs, noise, 0.3)
    other = small_checkpoint(3, dtype="float32", steps=5)
    ours = expected(other, obs, noise, 0.1)
    before = jax_sampler._chain._cache_size(), jax_sampler._best._cache_size()
    theirs = JaxSampler(other).trace(obs, noise, 0.1)
    assert before == (jax_sampler._chain._cache_size(), jax_sampler._best._cache_size())
    assert first_seen(ours, theirs) is None


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
    "unknown-gradient-norm-clipped": "g",
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


def test_every_mistake_has_its_place() -> None:
    assert SEEN_IN.keys() == {*bank.MISTAKES, *bank.HELD_OUT}
    assert not bank.MISTAKES.keys() & bank.HELD_OUT
    assert all(name.startswith("unknown-") for name in bank.HELD_OUT)


@pytest.mark.parametrize("name", [*bank.MISTAKES, *bank.HELD_OUT])
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


def test_bad_input() -> None:
    ck = small_checkpoint(dtype="float32")
    with pytest.raises(InputError, match=r"unknown mistake 'gelu'.*gelu-erf"):
        bank.broken(ck, "gelu")
    with pytest.raises(InputError, match=r"unknown mistake"):
        bank.applies(ck, "gelu")
    with pytest.raises(InputError, match=r"unknown estimator of the JAX peer 'qgf_chain'.*bptt"):
        JaxSampler(ck, estimator="qgf_chain")
    with pytest.raises(InputError, match=r"unknown activation.*gelu_erf.*mish"):
        JaxSampler(small_checkpoint(activation="gelu_erf"))
    obs, noise = inputs(ck)
    with pytest.raises(InputError, match=r"\(16, 5\) and \(32, 3\), got \(16, 5\) and \(16, 3\)"):
        JaxSampler(ck).sample(obs, noise, 0.1, best_of=2)
