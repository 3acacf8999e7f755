"""The JAX port of the sampler against ours.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.sampling import sample, trace
from tests.conftest import Golden, small_checkpoint

pytestmark = pytest.mark.peers
pytest.importorskip("jax")
pytest.importorskip("flax")

from benchmarks.peers import jax_sampler  # noqa: E402
from benchmarks.peers.jax_sampler import ESTIMATORS, JaxSampler  # noqa: E402

Trace = dict[str, Array]
ROWS, BEST_OF, WEIGHT = 16, 4, 0.3
TOLERANCE = {"a": 3e-6, "v": 6e-6, "a1_hat": 4e-6, "q": 1e-5, "g": 2e-5, "action": 2e-6}
"""Of the right port. Measured, on the checkpoints and estimators of this file: a 6.5e-7, v 1.0e-6,
a1_hat 6.0e-7, q 2.0e-6, g 4.2e-6, action 4.8e-7 (after 6 to 10 steps). A mistake must be twice as
large (`test_jax_mistakes`), and most are 1e4 times that.
"""


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


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_port_is_right(estimator: str) -> None:
    ck = small_checkpoint(dtype="float32")
    port = JaxSampler(ck, estimator=estimator)
    for rows in (1, ROWS):
        obs, noise = inputs(ck, rows)
        for weight in (0.3, 0.0):
            ours = expected(ck, obs, noise, weight, estimator)
            assert first_seen(ours, port.trace(obs, noise, weight)) is None


@pytest.mark.usefixtures("quick_compilation")
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
    """Against the official float32 actions, and our float64 traces, compiled as a user does.

    Official: measured 3.6e-7.
    """
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


def test_bad_input() -> None:
    ck = small_checkpoint(dtype="float32")
    with pytest.raises(InputError, match=r"unknown estimator of the JAX peer 'qgf_chain'.*bptt"):
        JaxSampler(ck, estimator="qgf_chain")
    with pytest.raises(InputError, match=r"unknown activation.*gelu_erf.*mish"):
        JaxSampler(small_checkpoint(activation="gelu_erf"))
    obs, noise = inputs(ck)
    with pytest.raises(InputError, match=r"\(16, 5\) and \(32, 3\), got \(16, 5\) and \(16, 3\)"):
        JaxSampler(ck).sample(obs, noise, 0.1, best_of=2)
