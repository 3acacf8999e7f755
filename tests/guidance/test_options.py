"""Options of estimators: norm, interval, schedule, gate, parts of the action, lower bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.cli.main import main
from qgf_ref.contracts import ContractError
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import parse_method
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import Products
from qgf_ref.guidance.options import norm
from qgf_ref.guidance.options.grammar import OPTIONS
from qgf_ref.ops.ensemble import ensemble_reduce, ensemble_reduce_vjp
from qgf_ref.testing import check_estimator
from tests.conftest import small_checkpoint, states
from tests.helpers.some import some

SPECS = (
    "qgf+norm=0.05",
    "qgf_jacobian+interval=0.2,0.5",
    "qgf_covariance+schedule=rtc,5",
    "bptt+schedule=cosine+interval=0,0.5",
    "qgf+schedule=power,2+gate=0.3",
    "qgf_jacobian_unmasked+gate=0.5,soft",
    "ood+prefix=1/3+norm=0.1",
    "qgf+real=2/3",
)


@pytest.mark.parametrize("spec", some(SPECS, 5))
def test_every_option_keeps_the_contract(spec: str) -> None:
    """Rows, products, definition, potential; as a recorded program, too."""
    chosen = qgf_ref.estimator(spec)
    assert chosen.label == spec
    report = check_estimator(chosen, small_checkpoint(1, hidden=(7, 6)))
    assert {"definition", "recordable", "stated_products", "row_independence"} <= {*report.checked}


def test_every_option_is_tried() -> None:
    assert {part.partition("=")[0] for s in SPECS for part in s.split("+")[1:]} == {*OPTIONS}


def test_a_norm_over_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def over_the_batch(run: Any, x: Any, most: float) -> Any:
        return np.full((len(x), 1), min(1, most / (np.linalg.norm(x) + 1e-6)))

    monkeypatch.setattr(norm, "shrink", over_the_batch)
    with pytest.raises(ContractError, match="row_independence"):
        check_estimator("qgf+norm=0.05", small_checkpoint(1))
    monkeypatch.undo()
    monkeypatch.setattr(norm, "EPSILON", 1e-2)
    with pytest.raises(ContractError, match="definition"):
        check_estimator("qgf+norm=0.05", small_checkpoint(1))


def test_what_each_does_to_a_trace() -> None:
    ck = small_checkpoint(1, steps=10)
    obs, noise = states(ck, 4)
    plain = qgf_ref.trace(ck.flow, obs, weight=0.3, noise=noise)

    def g(options: str) -> Any:
        return qgf_ref.trace(ck.flow, obs, estimator=f"qgf+{options}", weight=0.3, noise=noise).g

    lengths = np.linalg.norm(g("norm=0.2"), axis=2)
    assert lengths.max() == pytest.approx(0.2, abs=1e-6)
    assert (np.linalg.norm(plain.g[0], axis=1) > 0.2).any()
    times = [k for k, x in enumerate(g("interval=0.3,0.6")) if x.any()]
    assert times == [3, 4, 5, 6]  # 3/10 and 6/10 belong to it, in float64 as in float32
    single = replace(ck.flow, time_precision="float32")
    run = qgf_ref.trace(single, obs, estimator="qgf+interval=0.3,0.6", weight=0.3, noise=noise)
    assert [k for k, x in enumerate(run.g) if x.any()] == times
    assert not g("prefix=1/3")[:, :, 1:].any() and g("prefix=1/3")[:, :, 0].all()
    np.testing.assert_array_equal(g("schedule=down")[0], plain.g[0])
    assert not g("schedule=up")[0].any()
    assert not g("gate=1e-9").any()
    np.testing.assert_array_equal(g("gate=1e9"), plain.g)


def test_parts_of_a_chunk_are_counted_in_actions_and_in_dimensions() -> None:
    """A chunk of 3 actions of 2 numbers, flat: a₀d₀ a₀d₁ a₁d₀ …"""
    ck = small_checkpoint(1, action_dim=6, steps=4)
    obs, noise = states(ck, 4)
    how: dict[str, Any] = {"weight": 0.3, "noise": noise}
    plain = qgf_ref.trace(ck.flow, obs, estimator="qgf", **how).g[0]
    for option, columns in (("prefix=2/3", [0, 1, 2, 3]), ("real=1/2", [0, 2, 4])):
        kept = qgf_ref.trace(ck.flow, obs, estimator=f"qgf+{option}", **how).g[0]
        assert np.flatnonzero(kept.any(axis=0)).tolist() == columns
        np.testing.assert_array_equal(kept[:, columns], plain[:, columns])


def test_the_gate_is_by_the_deviation_of_three_members() -> None:
    """Of two members every deviation from the mean is as large as the other."""
    ck = small_checkpoint(1, members=3, steps=4)
    obs, noise = states(ck, 6)
    how: dict[str, Any] = {"weight": 0.3, "noise": noise}
    plain = qgf_ref.trace(ck.flow, obs, estimator="qgf", **how)
    deviation = plain.q[0].std(axis=0)
    c = float(np.median(deviation))
    hard = qgf_ref.trace(ck.flow, obs, estimator=f"qgf+gate={c!r}", **how).g[0]
    np.testing.assert_array_equal(hard.any(axis=1), deviation < c)
    soft = qgf_ref.trace(ck.flow, obs, estimator=f"qgf+gate={c!r},soft", **how).g[0]
    factor = c / (c + deviation)
    np.testing.assert_allclose(soft, factor[:, None] * plain.g[0], rtol=1e-12)


def test_outside_its_interval_nothing_is_asked() -> None:
    flow = small_checkpoint(steps=4).flow
    products = [qgf_ref.estimator("bptt+interval=0.5,1").products(flow, k) for k in range(4)]
    assert products[:2] == [Products()] * 2
    assert products[2:] == [qgf_ref.estimator("bptt").products(flow, k) for k in (2, 3)]


def test_a_schedule_is_a_weight() -> None:
    """Of an exact estimator, too, whose G depends on the weight: v + w·s·G(w·s)."""
    mixture = GaussianMixture.isotropic([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], 0.3)
    critic = QuadraticCritic(np.array([1.0, -1.0]), np.eye(2))
    flow = qgf_ref.GuidedFlow(MixtureFlow(mixture), critic, 4, action_bound=None)
    action = np.random.default_rng(0).standard_normal((3, 2))
    step = qgf_ref.denoising_step(flow, np.zeros((3, 0)), action, 3, 2.0)
    scheduled = 2.0 * qgf_ref.estimator("oracle+schedule=up")(flow, step).gradient
    exact = flow.field.guided_velocity(action, 0.75, critic, 1.5)  # type: ignore[attr-defined]
    np.testing.assert_allclose(step.velocity + scheduled, exact, rtol=1e-12)


def test_options_on_numba_and_on_rows_with_weights_of_their_own() -> None:
    ck = small_checkpoint(2, aggregation="lcb=0.7", members=3)
    obs, noise = states(ck, 7)
    how: dict[str, Any] = {"weight": np.linspace(0, 1, 7), "noise": noise}
    for spec in ("qgf_jacobian+gate=0.4,soft+norm=0.1+real=2/3+schedule=down", "ood"):
        expected = qgf_ref.sample(ck.flow, obs, estimator=spec, **how)
        found = qgf_ref.sample(ck.flow, obs, estimator=spec, backend="numba", **how)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_a_lower_confidence_bound() -> None:
    """Of two members, mean − 1·std is the minimum: value, derivative, tie."""
    q = np.random.default_rng(0).standard_normal((2, 6))
    q[1, 5] = q[0, 5]
    (bound, slopes), (least, shares) = ensemble_reduce(q, "lcb=1"), ensemble_reduce(q, "min")
    np.testing.assert_allclose(bound, least, rtol=0, atol=4e-16)
    np.testing.assert_allclose(slopes.weight, shares.weight, rtol=0, atol=4e-16)
    many = np.random.default_rng(1).standard_normal((5, 4))
    value, cache = ensemble_reduce(many, "lcb=0.5")
    np.testing.assert_allclose(value, many.mean(0) - 0.5 * many.std(0), rtol=1e-14)
    slope = ensemble_reduce_vjp(np.ones(4), cache)
    for e in range(5):
        moved = many.astype(complex)
        moved[e] += 1e-30j
        np.testing.assert_allclose(
            ensemble_reduce(moved, "lcb=0.5")[0].imag / 1e-30, slope[e], rtol=1e-13
        )
    check_estimator("qgf", small_checkpoint(1, aggregation="lcb=0.7", members=4))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("qgf+nrm=1", "unknown option of an estimator 'nrm'; the valid ones are: norm, gate"),
        ("qgf+norm", "expected norm=c, got 'norm'"),
        ("qgf+norm=x", "expected norm=c, got 'norm=x'"),
        ("qgf+norm=-1", r"norm=c: c must be a number > 0, got -1.0"),
        ("qgf+norm=nan", r"must be a number > 0, got nan"),
        ("qgf+interval=0.8,0.2", "0 ≤ low ≤ high ≤ 1 .t = 0 is noise., got 0.8,0.2"),
        ("qgf+schedule=foo", "unknown schedule 'foo'; the valid ones are: cosine"),
        ("qgf+schedule=up,3", "the schedule up takes no number, got 3.0"),
        ("qgf+prefix=6/5", "prefix=6/5 needs whole numbers n/N with 1 ≤ n ≤ N"),
        ("qgf+real=1/7", "real=1/7: 3 numbers are not divisible by 7"),
        ("qgf+gate=1,hard", "expected gate=c.,soft., got 'gate=1,hard'"),
        ("none+gate=1", "none does not say what Q it saw"),
        ("qgf_shifted_taylor+norm=1", "qgf_shifted_taylor steps to second order along its own G"),
    ],
)
def test_bad_input_is_one_sentence(spec: str, says: str) -> None:
    ck = small_checkpoint()
    with pytest.raises(InputError, match=says) as error:
        qgf_ref.sample(ck.flow, states(ck, 2)[0], estimator=spec, weight=1.0, rng=0)
    assert "\n" not in str(error.value)


def test_other_bad_input() -> None:
    ck = small_checkpoint(members=1)
    how: dict[str, Any] = {"weight": 1.0, "rng": 0}
    obs = states(ck, 2)[0]
    with pytest.raises(InputError, match="two members or more"):
        qgf_ref.sample(ck.flow, obs, estimator="qgf+gate=1", backend="numba", **how)
    for name in ("lcb", "lcb=-1", "lcb=x", "lcb=nan", "max"):
        with pytest.raises(InputError, match=r"unknown aggregation '.*lcb=K"):
            ensemble_reduce(np.zeros((2, 2)), name)
    bound = small_checkpoint(aggregation="lcb=1").flow
    with pytest.raises(InputError, match="qgf_covariance takes min or mean"):
        qgf_ref.sample(bound, obs, estimator="qgf_covariance", **how)
    wrapped: Any = "qgf"
    with pytest.raises(InputError, match="wraps an estimator, got str"):
        norm.NormClipped(wrapped)


def test_methods_of_evaluate() -> None:
    method = parse_method("bc+norm=1+bfn-4")
    assert (method.estimator, method.best_of) == ("none+norm=1", 4)
    assert parse_method("qgf+norm=1").label == "qgf+norm=1"
    with pytest.raises(InputError, match="unknown option"):
        parse_method("qgf+nrm=1")


def test_from_the_command_line_a_trace_says_which_and_compare_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ck = small_checkpoint(steps=3, hidden=(7, 6))
    qgf_ref.save_checkpoint(ck, "ck.safetensors")
    obs, noise = states(ck, 3)
    np.savez("in.npz", obs=obs, noise=noise)
    spec = "qgf+interval=0.2,0.8+norm=0.1+prefix=2/3"
    own = ["--checkpoint", "ck.safetensors"]
    assert main(["trace", *own, "--input", "in.npz", "--out", "o.npz", "--estimator", spec,
                 "--weight", "0.1"]) == 0  # fmt: skip
    assert main(["compare", *own, "--trace", "o.npz", "--out", "c"]) == 0
    assert f"estimator {spec}" in capsys.readouterr().out
