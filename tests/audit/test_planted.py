"""The audit fails on planted errors: in estimators, in first and in second derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref import (
    DenoisingStep,
    Estimator,
    Guidance,
    GuidedFlow,
    denoising_step,
    estimator,
)
from qgf_ref.arrays import Array
from qgf_ref.audit import report as reports
from qgf_ref.audit.definitions import departure_from_gradient_field
from qgf_ref.audit.derivatives import checks_of
from qgf_ref.audit.page import write_report
from qgf_ref.audit.rules import AuditedStates
from qgf_ref.audit.run import audit
from qgf_ref.ops import activations, dense, layer_norm
from qgf_ref.oracles import NotAnalytic
from tests.conftest import small_checkpoint, states

ESTIMATORS = [estimator(name) for name in ("none", "ood", "qgf", "qgf_jacobian", "bptt")]


@dataclass(frozen=True)
class OffByOnePart(Estimator):
    """Says that it is the gradient of Q(s, a_t), and is 1.001 times that."""

    name = "off_by_one_part"
    summary = "1.001 ∇Q(s, a_t)"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return Guidance(1.001 * estimator("ood")(flow, step).gradient)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        return estimator("ood").potential(flow, step)


def test_a_wrong_estimator_fails_the_audit(tmp_path: Path) -> None:
    ck = small_checkpoint()
    report = audit(ck, states(ck, 4)[0], [OffByOnePart()], show_progress=False)
    assert {c.name for c in report.failed} == {
        "estimator off_by_one_part (definition)",
        "estimator off_by_one_part (potential)",
    }
    assert "FAILED" in reports.verdict(report)
    assert "WRONG" in write_report(report, tmp_path).read_text()


PLANTED: dict[str, tuple[str, Any]] = {
    "layer_norm's mean term dropped": (
        "qgf_ref.ops.layer_norm._normalised_jacobian",
        lambda u, cache: cache.rstd * (u - cache.x_hat * (cache.x_hat * u).mean(-1, keepdims=True)),
    ),
    "gelu's slope without its cubic term": (
        "qgf_ref.ops.activations.GELU_CUBIC",
        None,
    ),
    "the clip's mask ignored": ("qgf_ref.guidance.queries.clip_vjp", lambda y_bar, cache: y_bar),
    "the linear layer's bias gradient averaged": (
        "qgf_ref.ops.dense.LINEAR",
        replace(
            dense.LINEAR,
            vjp_params=lambda y_bar, cache: (
                np.swapaxes(cache.x, -1, -2) @ y_bar,
                y_bar.mean(axis=-2),
            ),
        ),
    ),
    "guidance of the batch's mean": (
        "qgf_ref.guidance.queries.batch_sum_vjp",
        lambda q: np.full(q.shape, 1 / len(q)),
    ),
    "the gradient of the mean over members": (
        "qgf_ref.guidance.queries.ensemble_reduce_vjp",
        lambda y_bar, cache: np.ones_like(cache.weight) / len(cache.weight) * y_bar,
    ),
    "a rollout's vjp that forgets the identity": (
        "qgf_ref.guidance.queries.rollout_vjp",
        lambda field, a_bar, cache, kernels: field.vjp(a_bar / cache.denoise_steps, cache.steps[0]),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_fail_the_audit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, replacement = PLANTED[name]
    if replacement is None:

        def slope(x: Array, inner: Array) -> Array:
            half = 0.5 * (1 + inner)
            return half + 0.5 * x * (1 - inner * inner) * activations.SQRT_2_OVER_PI

        rules = {**activations._RULES, "gelu": activations._RULES["gelu"]._replace(slope=slope)}
        monkeypatch.setattr(activations, "_RULES", rules)
    else:
        monkeypatch.setattr(target, replacement)
    ck = small_checkpoint()
    report = audit(ck, states(ck, 4)[0], ESTIMATORS, show_progress=False)
    assert not report.passed


PLANTED_SECOND: dict[str, tuple[str, Any]] = {
    "the critic's curvature without the activation's": (
        "qgf_ref.ops.dense.ACTIVATION",
        replace(
            dense.ACTIVATION,
            vjp_jvp=lambda x_dot, y_bar, y_bar_dot, cache: activations.activation_vjp(
                y_bar_dot, cache
            ),
        ),
    ),
    "the critic's curvature without LayerNorm's": (
        "qgf_ref.ops.dense.NORM",
        replace(
            dense.NORM,
            vjp_jvp=lambda x_dot, y_bar, y_bar_dot, cache: layer_norm.layer_norm_vjp(
                y_bar_dot, cache
            ),
        ),
    ),
    "the first member's curvature for the ensemble's": (
        "qgf_ref.nets.critic.MLPCritic.hvp",
        lambda critic, a_dot, q_bar, cache: critic.joint_hvp(
            cache, q_bar * [[1], [0]], action=a_dot
        )[1],
    ),
    "a curvature off by one part in a thousand": (
        "qgf_ref.guidance.queries.Curvature.product",
        lambda curvature, x_dot: (
            1.001 * curvature.flow.critic.hvp(x_dot, curvature.q_bar, curvature.cache)
        ),
    ),
}


@pytest.mark.parametrize("name", PLANTED_SECOND)
def test_planted_errors_of_second_order_fail_the_audit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same jobs that the audit runs, without the rest."""
    ck = small_checkpoint()
    point = AuditedStates.of(ck, states(ck, 4)[0], np.random.default_rng(0))
    jobs = {k: v for k, v in checks_of(point, []).items() if k.startswith("target critic")}

    def failed() -> list[str]:
        return [c.name for job in jobs.values() for c in job() if not c.passed]

    assert not failed()
    monkeypatch.setattr(*PLANTED_SECOND[name])
    assert failed()


@dataclass(frozen=True)
class WrongInTheMiddle(OffByOnePart):
    """Right at every step but one."""

    name = "wrong_in_the_middle"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        right = estimator("ood")(flow, step).gradient
        return Guidance(1.001 * right if step.index == 3 else right)


def test_estimators_are_checked_beyond_the_first_step() -> None:
    ck = small_checkpoint()
    assert not audit(ck, states(ck, 4)[0], [WrongInTheMiddle()], show_progress=False).passed


@dataclass(frozen=True)
class UnitGradient(Estimator):
    """Says nothing of being not analytic, and is not."""

    name = "unit"
    summary = "∇Q(s, a_t)/‖∇Q(s, a_t)‖"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        g = estimator("ood")(flow, step).gradient
        return Guidance(g / np.linalg.norm(g, axis=-1, keepdims=True))


class Penalised(OffByOnePart):
    """Φ = Q − ‖a‖, and G forgets the second term, as does a complex step."""

    name = "penalised"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        return estimator("ood")(flow, step)

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        return np.asarray(super().potential(flow, step)) - np.linalg.norm(step.action, axis=-1)


class RightlyPenalised(Penalised):
    name = "rightly_penalised"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        g, a = super().__call__(flow, step).gradient, step.action
        return Guidance(g - a / np.linalg.norm(a, axis=-1, keepdims=True))


def test_estimators_that_are_not_analytic_are_judged_by_differences() -> None:
    ck = small_checkpoint()
    mine = [UnitGradient(), Penalised(), RightlyPenalised()]
    report = audit(ck, states(ck, 4)[0], mine, show_progress=False)
    assert {c.name for c in report.failed} == {
        "estimator penalised (definition)", "estimator penalised (potential)"
    }  # fmt: skip
    assert all("np.linalg.norm at test_planted.py:" in c.remark for c in report.failed)
    assert (report.profile.departure["unit"] or 0) > 0.05
    assert (report.profile.departure["rightly_penalised"] or 0) < 1e-6
    said = "\n".join(reports.remark_lines(report))
    assert "G of unit is not analytic (np.linalg.norm at test_planted.py:" in said
    step = denoising_step(ck.flow, *states(ck, 3), 1)
    with pytest.warns(NotAnalytic, match="G of unit is not analytic"):
        departure_from_gradient_field(UnitGradient(), ck.flow, step)
