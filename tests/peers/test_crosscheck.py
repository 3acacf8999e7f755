"""The checks of `qgf_ref.testing` on real ports: right ones pass, broken ones are named.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`. `benchmarks/crosscheck.py` does
it with every mistake of the bank in both frameworks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.testing import (
    CrossCheckError,
    SamplerReport,
    check_critic,
    check_gradient,
    check_sampler,
    check_velocity,
)
from tests.conftest import GOLDEN_CASES, golden_case

torch = pytest.importorskip("torch")
pytest.importorskip("jax")
pytest.importorskip("flax")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.usefixtures("quick_compilation", "one_thread"),
]

import jax  # noqa: E402

from benchmarks.crosscheck import (  # noqa: E402
    FRAMEWORKS,
    Outcome,
    architectures,
    diagnosed,
    sampler,
    trained_like,
)
from benchmarks.peers.jax_sampler import JaxSampler, Step  # noqa: E402
from benchmarks.peers.torch_sampler import Step as TorchStep  # noqa: E402
from benchmarks.peers.torch_sampler import TorchSampler  # noqa: E402

PORTS: dict[str, Any] = {"JAX": JaxSampler, "PyTorch": TorchSampler}
ARCHITECTURES = (1, 4, 9, 13)
"""mish, E = 1, T = 5; relu, D = 1, E = 1; elu and min of 4, T = 19; silu and mean of 4, T = 15."""
ROWS = 16

both_frameworks = pytest.mark.parametrize("framework", PORTS)


def agrees(framework: str, checkpoint: Checkpoint) -> None:
    port = sampler(PORTS[framework](checkpoint), traced=True)
    assert check_sampler(port, checkpoint, best_of=4, rows=ROWS, coverage=False).agrees


@both_frameworks
@pytest.mark.parametrize("case", [*GOLDEN_CASES, "pinned_jax"])
def test_a_right_port_passes_on_the_golden_networks(case: str, framework: str) -> None:
    agrees(framework, golden_case(case).load())


@both_frameworks
@pytest.mark.parametrize("index", ARCHITECTURES)
def test_a_right_port_passes_on_random_architectures(index: int, framework: str) -> None:
    agrees(framework, architectures(max(ARCHITECTURES) + 1)[index])


@dataclass(frozen=True)
class Functions:
    """A port's own velocity, critic members and gradient, as the checks call them."""

    velocity: Callable[[Array, Array, Array], Array]
    critic: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], Array]


def of_jax(made: JaxSampler) -> Functions:
    port = replace(made.port, params=made.params)

    @jax.jit
    def velocity(obs: Array, a: Array, t: Array) -> Any:
        return port.velocity(obs, a, jax.numpy.rint(t[0] * port.T).astype(int))

    @jax.jit
    def critic(obs: Array, a: Array) -> Any:
        return port.members(obs, a, port.guide_critic)

    @jax.jit
    def gradient(obs: Array, a: Array) -> Any:
        s = Step(obs, a, 0, 0.0, a, 0.0, a)
        return port.direction(s, port.gradient(s, a))

    return Functions(velocity, critic, gradient)


def of_torch(made: TorchSampler) -> Functions:
    def velocity(obs: Array, a: Array, t: Array) -> Array:
        s, x = torch.tensor(obs), torch.tensor(a)
        return np.asarray(made.policy(s, x, torch.tensor(t[0])))

    def critic(obs: Array, a: Array) -> Array:
        return np.asarray(made.members(made.guiding, torch.tensor(obs), torch.tensor(a)))

    def gradient(obs: Array, a: Array) -> Array:
        s, x = torch.tensor(obs), torch.tensor(a)
        return np.asarray(made.gradient(TorchStep(s, x, 0, torch.zeros(()), x, 0.0), x))

    return Functions(velocity, critic, gradient)


@functools.cache
def networks() -> Checkpoint:
    return trained_like()


def functions(framework: str, mistake: str | None = None) -> Functions:
    if mistake is None:
        made = PORTS[framework](networks())
    else:
        made = FRAMEWORKS[framework].broken(networks(), mistake)
    return of_jax(made) if framework == "JAX" else of_torch(made)


CHECKS: dict[str, Any] = {
    "velocity": check_velocity,
    "critic": check_critic,
    "gradient": check_gradient,
}


@both_frameworks
@pytest.mark.parametrize("part", CHECKS)
def test_a_right_function_passes(part: str, framework: str) -> None:
    given = getattr(functions(framework), part)
    assert CHECKS[part](given, networks(), rows=ROWS).agrees


ALIKE = {
    "layer-norm-member-0": ("layer-norm-member-0-forward",),
    "gradient-batch-mean": ("gradient-norm-clipped-batch",),
}
"""Told apart by the gradient alone, which the critic's values do not have; by a second batch, where
one is asked: of one, a gradient over B is a gradient clipped to that length."""


@both_frameworks
@pytest.mark.parametrize(
    ("part", "mistake"),
    [
        ("velocity", "gelu-erf"),
        ("velocity", "time-sin-first"),
        ("velocity", "policy-input-action-first"),
        ("critic", "layer-norm-member-0"),
        ("critic", "critic-input-action-first"),
        ("critic", "critic-online"),
        ("gradient", "ensemble-mean"),
        ("gradient", "gradient-batch-mean"),
        ("gradient", "gradient-negated"),
    ],
)
def test_a_mistake_in_a_function_is_named(part: str, mistake: str, framework: str) -> None:
    given = getattr(functions(framework, mistake), part)
    with pytest.raises(CrossCheckError, match=mistake) as caught:
        CHECKS[part](given, networks(), rows=ROWS)
    report = caught.value.report
    assert isinstance(report, SamplerReport)
    named = {e.names for e in report.diagnosis.explanations}
    assert named == {(name,) for name in (mistake, *ALIKE.get(mistake, ()))}


def outcomes(framework: str, mistake: str) -> list[Outcome]:
    """From traces, and from final actions alone."""
    module = FRAMEWORKS[framework]
    return [diagnosed(module, networks(), mistake, traced=traced) for traced in (True, False)]


@both_frameworks
@pytest.mark.parametrize(
    "mistake", ["gelu-erf", "grid-next", "gradient-batch-mean", "weight-squared"]
)
def test_a_broken_port_is_named_alone(mistake: str, framework: str) -> None:
    """A mistake of the network, of the time, of the gradient, of the update."""
    for outcome in outcomes(framework, mistake):
        assert outcome.said == ((mistake,),)


@both_frameworks
@pytest.mark.parametrize(("mistake", "first"), [("unknown-query-clip-0.9", "a1_hat")])
def test_what_no_bank_holds_is_unknown(mistake: str, first: str, framework: str) -> None:
    traced, actions = outcomes(framework, mistake)
    assert (traced.said, traced.unknown) == ((), first)
    assert (actions.said, actions.unknown) == ((), "action")
