"""The product ledger: complete, replayable, and it catches what happens off the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, InputError, estimator
from qgf_ref.audit.explain import explain
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.ledger import Leaf, Ledger, Output
from qgf_ref.ops.linear import linear
from tests.conftest import small_checkpoint, states


@pytest.mark.parametrize("name", learned_estimator_names())
@pytest.mark.parametrize("k", [0, 5])
def test_every_estimator_is_wholly_on_the_record(name: str, k: int) -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 3)
    e = explain(ck, obs, estimator=estimator(name), row=1, index=k, weight=0.2, noise=noise)
    assert e.ledger.undeclared == []
    assert e.complete
    assert e.error is not None
    assert e.error < 1e-12
    text = e.text()
    assert max(map(len, text.splitlines())) <= 100
    assert "re-derived from the ledger alone: the same bits" in text
    assert len(e.text(brief=True).splitlines()) <= len(text.splitlines())


def test_the_ledger_counts_the_products_layer_by_layer() -> None:
    """4 linear layers in each network; qgf_jacobian: one vjp of each network."""
    ck = small_checkpoint()
    obs, noise = states(ck, 2)
    e = explain(ck, obs, estimator=estimator("qgf_jacobian"), index=2, noise=noise)
    entries = e.ledger.entries

    def count(operation: str, product: str, network: str) -> int:
        return sum(
            (x.operation, x.product, x.where.split(" ")[0]) == (operation, product, network)
            for x in entries
        )

    for network in ("policy", "critic"):
        assert count("linear", "forward", network) == count("linear", "vjp", network) == 4
    assert count("layer_norm", "vjp", "policy") == 2, "none on the actor's last hidden layer"
    assert count("layer_norm", "vjp", "critic") == 3


def test_the_row_is_the_row_of_the_batch() -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 4)
    one = explain(ck, obs[2:3], estimator=estimator("qgf"), index=3, weight=0.5, noise=noise[2:3])
    same = explain(ck, obs, estimator=estimator("qgf"), row=2, index=3, weight=0.5, noise=noise)
    np.testing.assert_array_equal(one.gradient, same.gradient)


@dataclass(frozen=True)
class OffTheRecord(Estimator):
    """Doubles the gradient with a bare NumPy operation."""

    name = "off_the_record"
    summary = "2∇Q(s, a_t), the 2 hidden"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(2 * critic_gradient(flow, step.obs, step.action).gradient)


@dataclass(frozen=True)
class HiddenInput(Estimator):
    """Asks the critic at a point that no recorded operation made."""

    name = "hidden_input"
    summary = "∇Q(s, a_t + 1), the shift hidden"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return critic_gradient(flow, step.obs, step.action + 1)


@pytest.mark.parametrize("sneaky", [OffTheRecord(), HiddenInput()])
def test_operations_off_the_record_are_noticed(sneaky: Any) -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 1)
    e = explain(ck, obs, estimator=sneaky, noise=noise)
    assert not e.complete
    assert "made outside the ledger" in e.text() or "not re-derived" in e.text()


def test_references_and_replay() -> None:
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), np.zeros(4)
    ledger = Ledger()
    for name, value in (("x", x), ("net.layers.0.kernel", kernel), ("net.layers.0.bias", bias)):
        ledger.declare(name, value)
    y, _ = ledger(linear, x, kernel, bias)
    z, _ = ledger(linear, y, kernel.T.copy(), np.zeros(3))
    assert ledger.entries[0].where == "net 0"
    assert ledger.entries[0].inputs[0] == Leaf("x")
    assert ledger.entries[1].inputs[0] == Output(0, 0)
    assert len(ledger.undeclared) == 2
    np.testing.assert_array_equal(ledger.replay(z), z)
    ledger.leaves["x"] = 2 * x
    np.testing.assert_allclose(ledger.replay(z), 2 * z)
    with pytest.raises(KeyError):
        ledger.replay(np.zeros(2))
    with pytest.raises(TypeError, match="positional"):
        ledger(linear, x, kernel, bias=bias)


def test_a_copy_of_an_outcome_is_that_outcome() -> None:
    """As answers of users' functions are, which may come in one array that they keep."""
    ledger, x = Ledger(), np.array([1.0, 2.0])
    ledger.declare("x", x)
    sine = ledger(np.sin, x)
    ledger(np.cos, x)
    assert np.array_equal(ledger.replay(sine.copy()), np.sin(x))
    with pytest.raises(KeyError):
        ledger.replay(np.sin(x) * (1 + 1e-15))
    ledger(np.multiply, x, 0.0)
    with pytest.raises(KeyError):
        ledger.replay(np.zeros(2))


def test_out_of_range() -> None:
    ck = small_checkpoint()
    obs, noise = states(ck, 2)
    for arguments, message in (
        ({"row": 2}, r"row must be one of the 2, 0 to 1, got 2"),
        ({"index": 6}, r"step must be one of the 6, 0 to 5, got 6"),
    ):
        with pytest.raises(InputError, match=message):
            explain(ck, obs, estimator=estimator("qgf"), noise=noise, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["qgf_covariance", "qgf_shifted", "cfgrl"])
def test_without_weight_the_definition_agrees(name: str) -> None:
    """Those that ask for w divide by it, and must not."""
    ck = small_checkpoint()
    obs, noise = states(ck, 3)
    e = explain(ck, obs, estimator=estimator(name), row=1, index=2, weight=0.0, noise=noise)
    assert e.error is not None and e.error < 1e-12
