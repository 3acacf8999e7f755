"""Names, options, and users' own estimators of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref import (
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    InputError,
    estimator,
    register,
)
from qgf_ref.arrays import Array
from qgf_ref.audit.definitions import (
    potential_gradient,
)
from qgf_ref.guidance.registry import (
    _REGISTRY,
    estimator_names,
)
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint, states
from tests.helpers.estimators import at, distance

NO_ESTIMATOR = ("ood", "bptt")


def test_the_registry_has_what_the_issue_asks_for() -> None:
    assert estimator_names()[:13] == (
        "none", "ood", "qgf", "qgf_jacobian", "bptt", "qgf_chain", "qgf_jacobian_regularized",
        "qgf_jacobian_ortho", "qgf_jacobian_smooth", "qgf_masked", "qgf_jacobian_unmasked",
        "qgf_jacobian_scheduled", "oracle",
    )  # fmt: skip


def test_names_and_options() -> None:
    with pytest.raises(InputError, match=r"unknown estimator 'qfg'.*bptt.*your.module:function"):
        estimator("qfg")
    with pytest.raises(InputError, match=r"no option lambda_.*lam"):
        estimator("qgf_jacobian_regularized", lambda_=1)
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        estimator("qgf_jacobian_regularized", lam=2.0)
    with pytest.raises(InputError, match="draws"):
        estimator("qgf_jacobian_smooth", draws=0)
    with pytest.raises(InputError, match="that is built"):
        estimator(estimator("qgf"), lam=1)
    assert estimator("bc").name == "none"
    assert estimator("qfql").name == "ood"


def my_estimator(flow: GuidedFlow, step: DenoisingStep) -> Array:
    """A user's: the critic's gradient at a_t, by the critic's own products."""
    q, cache = flow.critic.forward(step.obs, step.action)
    return flow.critic.vjp(np.ones_like(q) / len(q), cache)


def wrong_shape(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return np.zeros(3)


@dataclass(frozen=True)
class WrongPotential(Estimator):
    """Declares a potential that it is not the gradient of."""

    name = "wrong_potential"
    summary = "2∇Q(s, a_t), said to be ∇Q"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(2 * estimator("ood")(flow, step).gradient)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        return estimator("ood").potential(flow, step)


def test_users_estimators() -> None:
    ck = small_checkpoint(aggregation="mean")
    step = at(ck, 2)
    mine = estimator(f"{__name__}:my_estimator")
    expected = estimator("ood")(ck.flow, step).gradient
    np.testing.assert_allclose(mine(ck.flow, step).gradient, expected, rtol=1e-13)
    assert mine.products(ck.flow, 0) is None
    with pytest.raises(InputError, match=r"float64 of shape \(3,\).*\(5, 3\)"):
        estimator(f"{__name__}:wrong_shape")(ck.flow, step)
    with pytest.raises(InputError, match="cannot import it: ModuleNotFoundError"):
        estimator("no_such_module:f")
    with pytest.raises(InputError, match="has no 'nothing'"):
        estimator(f"{__name__}:nothing")
    with pytest.raises(InputError, match="neither a function"):
        estimator(f"{__name__}:NO_ESTIMATOR")
    wrong = WrongPotential()
    gradient = wrong(ck.flow, step).gradient
    assert distance(gradient, potential_gradient(wrong, ck.flow, step)) > 0.5


def test_register() -> None:
    try:
        register("mine", my_estimator)
        assert "mine" in estimator_names()
        assert estimator("mine")(small_checkpoint().flow, at(small_checkpoint(), 1)).query is None
        with pytest.raises(InputError, match="taken"):
            register("mine", my_estimator)
        with pytest.raises(InputError, match="taken"):
            register("bc", my_estimator)
    finally:
        _REGISTRY.pop("mine", None)


class Undecorated(Estimator):
    """Not a dataclass: no options, but an estimator all the same."""

    name = "undecorated"
    summary = "0"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(0 * step.action)


def give(answer: Any, flow: GuidedFlow, step: DenoisingStep) -> Any:
    return answer


def raises(flow: GuidedFlow, step: DenoisingStep) -> Array:
    raise KeyError("no such key")


def test_users_code_of_every_kind(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ck = small_checkpoint()
    step = at(ck, 1)
    assert estimator(f"{__name__}:Undecorated").label == "undecorated"
    assert estimator(my_estimator).label == "my_estimator"
    assert estimator(f"{__name__}:my_estimator").label.endswith(":my_estimator")
    with pytest.raises(InputError, match=r"raised KeyError: 'no such key' at .*test_registry"):
        estimator(f"{__name__}:raises")(ck.flow, step)
    answers: list[Any] = [1j * step.action, None, "x"]
    for answer in answers:
        with pytest.raises(InputError, match="expected real numbers"):
            estimator(partial(give, answer))(ck.flow, step)
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="SyntaxError"):
        estimator("broken_module:f")
    obs, noise = states(ck, 2)
    with pytest.raises(InputError, match=r"undecorated must return a Guidance .*\(2, 3\)"):
        careless: Any = type(
            "C", (Undecorated,), {"__call__": lambda self, flow, step: step.action}
        )
        sample(ck.flow, obs, noise=noise, weight=0.1, estimator=careless())
    for malformed in (":f", "..a:b", "a:", "a b:c"):
        with pytest.raises(InputError, match="not of the form"):
            estimator(malformed)
    for wrong in (None, 3):
        with pytest.raises(InputError, match="unknown estimator of type"):
            estimator(wrong)  # type: ignore[arg-type]
    for name in ("a:b", "", 3):
        with pytest.raises(InputError, match="letters and digits"):
            register(name, my_estimator)  # type: ignore[arg-type]
    float32 = small_checkpoint(dtype="float32")
    obs, noise = states(float32, 2)
    ones = sample(
        float32.flow, obs, noise=noise, weight=0.1, estimator=lambda f, s: np.ones(s.action.shape)
    )
    assert ones.dtype == np.float32


class Bent(Undecorated):
    """Its acceleration would broadcast."""

    name = "bent"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(step.action, acceleration=step.action[:, :1])


def test_an_acceleration_is_neither_broadcast_nor_of_a_wider_type() -> None:
    ck = small_checkpoint(dtype="float32")
    obs, noise = states(ck, 2)
    with pytest.raises(InputError, match=r"acceleration of estimator bent must have .*\(2, 3\)"):
        sample(ck.flow, obs, noise=noise, weight=0.1, estimator=Bent())

    def wide(flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(step.action, acceleration=np.ones(step.action.shape))

    assert sample(ck.flow, obs, noise=noise, weight=0.1, estimator=wide).dtype == np.float32
    with pytest.raises(InputError, match="expected real numbers"):
        estimator(partial(give, Guidance(noise, acceleration=noise[:1])))(ck.flow, at(ck, 1, 2))
