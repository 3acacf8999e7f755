"""Critics of probabilities on compiled backends: their programs, and what has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref import sample
from qgf_ref.arrays import Array
from qgf_ref.backends.program.executor import execute
from qgf_ref.backends.program.program import Op
from qgf_ref.backends.program.record import networks_of, record
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.probability import ProbabilityCritic
from tests.helpers.compiled_sampler import counted
from tests.helpers.small import small_checkpoint, states

FLOAT64 = 2e-14
"""As of other programs; measured 9e-16."""


def climbing(seed: int = 1, scale: float = 1.0, **settings: Any) -> tuple[GuidedFlow, Array, Array]:
    """A flow guided by q = σ(z), observations and noise; scale: of the logits."""
    checkpoint = small_checkpoint(seed, **settings)
    flow: Any = checkpoint.flow
    *hidden, last = flow.critic.params.layers
    last = replace(last, kernel=scale * last.kernel, bias=scale * last.bias)
    params = replace(flow.critic.params, layers=(*hidden, last))
    critic = ProbabilityCritic(replace(flow.critic, params=params))
    return (replace(flow, critic=critic), *states(checkpoint, 7))


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_the_references_actions(
    aggregation: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of some hundreds, too: both tails of σ, and the slope's, are there."""
    ran = counted(monkeypatch)
    flow, obs, noise = climbing(scale=scale, aggregation=aggregation, members=3)
    for name in ("qgf", "qgf_jacobian", "bptt"):
        how: dict[str, Any] = {"estimator": name, "weight": 2.0, "noise": noise}
        expected = sample(flow, obs, **how)
        found = sample(flow, obs, backend="numba", **how)
        np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64 * max(1, scale / 10))
    assert len(ran) == 3


def test_logits_and_probabilities_are_remembered_apart() -> None:
    flow, obs, noise = climbing()
    assert isinstance(flow.critic, ProbabilityCritic)
    logits = replace(flow, critic=flow.critic.logits)
    for each in (flow, logits, flow):
        how: dict[str, Any] = {"weight": 2.0, "noise": noise}
        expected = sample(each, obs, **how)
        found = sample(each, obs, backend="numba", **how)
        np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64)
    far = sample(logits, obs, weight=2.0, noise=noise)
    assert abs(far - sample(flow, obs, weight=2.0, noise=noise)).max() > 1e-2


def test_what_has_no_program_runs_layer_by_layer() -> None:
    """A Hessian of probabilities asks for a critic's jvp."""
    flow, obs, noise = climbing()
    how: dict[str, Any] = {"estimator": "qgf_covariance", "weight": 2.0, "noise": noise}
    expected, found = (sample(flow, obs, backend=b, **how) for b in ("numpy", "numba"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)  # a solve beside it


def test_the_program_says_so() -> None:
    """Its network is the logits', and the executor, which defines it, gives q and its gradient."""
    flow, obs, noise = climbing(members=2)

    def chain(f: GuidedFlow, s: Array, a: Array, _: Any) -> tuple[Array, ...]:
        q, cache = f.critic.forward(s, a)
        return q, f.critic.vjp(q, cache)

    assert networks_of(flow)[1] is flow.critic.logits  # type: ignore[attr-defined]
    program = record(flow, chain)
    assert [step.op for step in program.instructions].count(Op.SIGMOID) == 2
    expected = chain(flow, obs, noise, None)
    for ours, theirs in zip(execute(program, flow, obs, noise, 0.0), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
