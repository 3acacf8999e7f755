"""The audit: passes on right code, fails on planted errors, writes what it says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, InputError, estimator
from qgf_ref.arrays import Array
from qgf_ref.audit import report as reports
from qgf_ref.audit.run import audit
from qgf_ref.guidance.registry import learned_estimator_names
from tests.conftest import small_checkpoint, states

ESTIMATORS = [estimator(name) for name in ("none", "ood", "qgf", "qgf_jacobian", "bptt")]


@pytest.fixture(scope="module")
def passed() -> reports.AuditReport:
    ck = small_checkpoint()
    return audit(ck, states(ck, 6)[0], ESTIMATORS, show_progress=False)


def test_a_right_checkpoint_passes(passed: reports.AuditReport) -> None:
    assert passed.passed, [str(c) for c in passed.failed]
    names = " ".join(c.name for c in passed.checks)
    for part in (
        "linear jvp", "layer_norm vjp", "time_embedding", "clip", "concat", "ensemble_reduce min",
        "activation mish", "velocity in the parameters", "critic in the parameters",
        "value in the observation", "rollout adjoint", "flow matching loss", "critic loss",
        "value loss", "estimator qgf (definition)", "estimator bptt (potential)",
    ):  # fmt: skip
        assert part in names
    profile = passed.profile
    assert (profile.departure["qgf"] or 0) > 0.01
    assert (profile.departure["bptt"] or 0) < 1e-10
    assert profile.cosine["qgf"]["qgf"] == pytest.approx(1)
    assert profile.products["qgf_jacobian"] == "v vjp + Q + Q vjp"
    assert len(profile.singular) == len(profile.times) == 6
    assert all(len(q) == len(profile.weights) for q in profile.q.values())
    for rows in passed.precision.values():
        assert max(rows["a, exact embedding"]) < 1e-4


def test_all_estimators_pass_on_every_kind_of_network() -> None:
    estimators = [estimator(name) for name in learned_estimator_names()]
    for options in (
        {"aggregation": "mean", "activation": "relu", "members": 4},
        {"members": 1, "activation": "mish", "hidden": (7,)},
        {"action_dim": 1, "obs_dim": 2, "steps": 1},
    ):
        ck = small_checkpoint(**options)
        report = audit(ck, states(ck, 4)[0], estimators, show_progress=False)
        assert report.passed, [str(c) for c in report.failed]


def test_the_report_is_written_and_self_contained(
    passed: reports.AuditReport, tmp_path: Path
) -> None:
    page = reports.write_report(passed, tmp_path)
    html = page.read_text()
    assert "all passed" in html
    assert html.count("data:image/png;base64,") == 7
    assert not re.search(r'(src|href)="(?!data:)', html)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["passed"] is True
    assert found["settings"]["seed"] == 0
    assert found["versions"]["numpy"] == np.__version__
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".json", ".html"}
    table = reports.text_table(*reports.estimator_rows(passed))
    assert max(map(len, table.splitlines())) <= 100


def test_the_same_seed_gives_the_same_numbers(passed: reports.AuditReport) -> None:
    ck = small_checkpoint()
    again = audit(ck, states(ck, 6)[0], ESTIMATORS, show_progress=False)
    assert again.checks == passed.checks
    assert again.profile.q == passed.profile.q
    assert again.precision == passed.precision


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
    assert "WRONG" in reports.write_report(report, tmp_path).read_text()


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
        "qgf_ref.nets.mlp.linear_vjp_params",
        lambda y_bar, cache: (np.swapaxes(cache.x, -1, -2) @ y_bar, y_bar.mean(axis=-2)),
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
        from qgf_ref.ops import activations

        def slope(x: Array, inner: Array) -> Array:
            half = 0.5 * (1 + inner)
            return half + 0.5 * x * (1 - inner * inner) * activations.SQRT_2_OVER_PI

        rules = {**activations._RULES, "gelu": activations._Rule(activations._gelu, slope)}
        monkeypatch.setattr(activations, "_RULES", rules)
    else:
        monkeypatch.setattr(target, replacement)
    ck = small_checkpoint()
    report = audit(ck, states(ck, 4)[0], ESTIMATORS, show_progress=False)
    assert not report.passed


def test_bad_observations() -> None:
    ck = small_checkpoint()
    with pytest.raises(InputError, match=r"obs must have shape \(rows, 5\), got \(3, 4\)"):
        audit(ck, np.zeros((3, 4)), ESTIMATORS, show_progress=False)
    with pytest.raises(InputError, match="at least 2"):
        audit(ck, np.zeros((1, 5)), ESTIMATORS, show_progress=False)
    with pytest.raises(InputError, match="obs must be finite"):
        audit(ck, np.full((3, 5), np.nan), ESTIMATORS, show_progress=False)
