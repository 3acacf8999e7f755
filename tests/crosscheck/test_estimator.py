"""check_estimator: every clause by an estimator that breaks it and nothing else; ports; pytest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import pytest

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, InputError, estimator
from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import gradient
from qgf_ref.audit.contract import CHECKS
from qgf_ref.contracts import Clause, ContractError
from qgf_ref.guidance.base import Products
from qgf_ref.ops.structure import scaled
from qgf_ref.testing import (
    CrossCheckError,
    OracleStep,
    check_estimator,
    defines,
    estimator_checks,
    parametrize_with_checks,
)
from tests.conftest import small_checkpoint

CK = small_checkpoint()
QGF = estimator("qgf")


@dataclass(frozen=True)
class Mine(Estimator):
    """A user's: ∇Q at a_t, with everything stated that can be."""

    name = "mine"
    summary = "∇Q(s, a_t)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return estimator("ood")(flow, step)

    def products(self, flow: GuidedFlow, index: int) -> Products | None:
        return Products(critic_forward=1, critic_vjp=1)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        return estimator("ood").potential(flow, step)


@defines(Mine)
def _mine(_: Mine, at: OracleStep) -> Array:
    return gradient(at.q, at.step.action)


@dataclass(frozen=True)
class Partial(Mine):
    """The same without a program, so that plain NumPy may follow."""

    recordable = False

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        right = super().__call__(flow, step)
        return replace(right, gradient=self.spoilt(step, right.gradient))

    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g


class ShapeAtStep1(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g[:, 1:] if step.index == 1 else g


class InfiniteAtStep1(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g / 0.0 if step.index == 1 else g


class AlwaysFloat64(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g if g.dtype.kind == "c" else g.astype(np.float64)


class Random(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        factor = 1 + 1e-14 * np.random.default_rng().standard_normal()
        return (factor * g).astype(g.dtype)


class ChangesItsInput(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        step.velocity[...] = 0
        return g


class NoRows(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g[:0, :1] if not len(g) else g


class BatchMean(Partial):
    """Without a definition or potential that would tell as well."""

    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return g - 1e-9 * g.mean(axis=0) if len(g) > 1 else g


class OneWeight(Partial):
    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return (g * (1 + np.max(step.weight) - np.min(step.weight))).astype(g.dtype)


class CheaperThanItIs(Partial):
    def products(self, flow: GuidedFlow, index: int) -> Products:
        return Products(critic_forward=1, critic_vjp=0 if index == 1 else 1)


class OtherDefinition(Partial):
    pass


@defines(OtherDefinition)
def _other(_: OtherDefinition, at: OracleStep) -> Array:
    return 1.001 * gradient(at.q, at.step.action)


class OtherPotential(Partial):
    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        return 1.001 * np.asarray(super().potential(flow, step))


class NotRecorded(Partial):
    recordable = True

    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        return 1.0 * g


class OneArray(Partial):
    """A later call changes what an earlier one gave."""

    kept: ClassVar[dict[Any, Array]] = {}

    def spoilt(self, step: DenoisingStep, g: Array) -> Array:
        place = self.kept.setdefault((g.shape, g.dtype), np.empty_like(g))
        place[...] = g
        return place


class RecordedBranch(Mine):
    """On the recorder's stand-ins, which are small, it does something else."""

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        right = super().__call__(flow, step)
        if abs(step.action).max(initial=0) > 0.2:
            return right
        return replace(right, gradient=flow.kernels(scaled, 2.0, right.gradient))


PLANTED: dict[type[Estimator], str] = {
    ShapeAtStep1: "shape",
    InfiniteAtStep1: "finite",
    AlwaysFloat64: "dtype",
    Random: "deterministic",
    OneArray: "deterministic",
    ChangesItsInput: "leaves_its_input",
    NoRows: "zero_rows",
    OneWeight: "row_weights",
    CheaperThanItIs: "stated_products",
    OtherDefinition: "definition",
    OtherPotential: "potential",
    NotRecorded: "recordable",
    RecordedBranch: "recordable",
}


def broken(subject: Any, **options: Any) -> dict[str, str]:
    """Every clause that the subject breaks, and its message."""
    messages = {}
    for name, check in estimator_checks(subject, CK, **options):
        try:
            check()
        except ContractError as error:
            messages[name] = str(error)
        except SkipTest:
            continue
    return messages


@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_each_clause_is_broken_by_what_breaks_it_alone(kind: type[Estimator]) -> None:
    assert set(broken(kind())) == {PLANTED[kind]}
    with pytest.raises(ContractError, match=f"mine: {PLANTED[kind]}: "):
        check_estimator(kind(), CK)


def test_a_batch_that_leaks_into_its_rows() -> None:
    """By 1e-9 only; its definition sees that as well."""
    assert set(broken(BatchMean())) == {"row_independence", "definition", "potential"}
    with pytest.raises(ContractError, match=r"row 0 alone and in its batch differ by \d\.\de-\d+"):
        check_estimator(BatchMean(), CK)


def test_every_clause_has_a_planted_error() -> None:
    assert set(PLANTED.values()) | {"row_independence"} == set(CHECKS)


def test_a_right_estimator_passes_all_of_them() -> None:
    report = check_estimator(Mine(), CK)
    assert set(report.checked) == set(CHECKS)
    assert not report.unchecked
    assert "12 checks passed" in str(report)


def minus_qgf(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return -QGF(flow, step).gradient


def plus_qgf(flow: GuidedFlow, step: DenoisingStep) -> Array:
    return QGF(flow, step).gradient


def test_a_plain_function_says_what_was_not_checked() -> None:
    report = check_estimator(minus_qgf, CK)
    assert set(report.unchecked) == {
        "stated_products", "definition", "potential", "recordable", "like",
    }  # fmt: skip
    assert "give like=" in report.unchecked["like"]
    named = check_estimator("tests.crosscheck.test_estimator:minus_qgf", CK)
    assert named.subject == "tests.crosscheck.test_estimator:minus_qgf"


def test_like_compares_at_every_step_and_names_the_mistake() -> None:
    assert "like qgf" in check_estimator(plus_qgf, CK, like="qgf").checked
    with pytest.raises(ContractError, match="gradient-negated"):
        check_estimator(minus_qgf, CK, like="qgf")


def port(obs: Array, action: Array, t: Array, weight: float) -> Array:
    """A float32 port of qgf_jacobian with networks of its own."""
    flow = CK.astype("float32").guided_flow(embedding="float32")
    assert obs.dtype == action.dtype == t.dtype == np.float32
    velocity, cache = flow.field.forward(obs, action, float(t[0]) if len(t) else 0.0)
    time = float(t[0]) if len(t) else 0.0
    step = DenoisingStep(obs, action, 1, time, velocity, cache, weight)
    return estimator("qgf_jacobian")(flow, step).gradient


@pytest.mark.slow
def test_a_port_is_compared_with_the_estimator_that_it_ports() -> None:
    report = check_estimator(port, CK, like="qgf_jacobian")
    assert "like qgf_jacobian" in report.checked
    assert "row_independence" in report.checked
    assert report.unchecked["row_weights"] == "a port takes one weight"
    with pytest.raises(
        ContractError, match="port: like qgf: gradient-jacobian\nestimator port DISAGREES"
    ):
        check_estimator(port, CK, like="qgf")
    with pytest.raises(InputError, match="is a port: give like="):
        check_estimator(port, CK)


def batch_mean(obs: Array, action: Array, t: Array, weight: float) -> Array:
    return port(obs, action, t, weight) / max(len(obs), 1)


def test_a_port_of_the_batchs_mean_gradient() -> None:
    with pytest.raises(ContractError, match="row_independence"):
        check_estimator(batch_mean, CK, like="qgf_jacobian")


def test_known_failures() -> None:
    reason = {"stated_products": "counts are rough"}
    report = check_estimator(CheaperThanItIs(), CK, known_failures=reason)
    assert report.known_failures == reason
    with pytest.raises(ContractError, match="take it off the list"):
        check_estimator(Mine(), CK, known_failures=reason)
    with pytest.raises(InputError, match="unknown check 'prodcts'"):
        check_estimator(Mine(), CK, known_failures={"prodcts": "misspelt"})


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="rows must be a whole number ≥ 2"):
        check_estimator("qgf", CK, rows=1)
    with pytest.raises(InputError, match="unknown estimator"):
        check_estimator("qfg", CK)
    with pytest.raises(InputError, match="unknown estimator 'qfg'"):
        check_estimator(plus_qgf, CK, like="qfg")


@parametrize_with_checks([Mine()], CK)
def test_as_a_user_writes_it(check: Clause) -> None:
    check()


def test_without_a_checkpoint_the_one_inside_the_package_is_taken() -> None:
    assert "definition" in check_estimator("qgf", rows=2).checked
    assert CrossCheckError.__name__ == "CrossCheckError"
