"""The contract of somebody's own networks, and the audit of their flow, by planted errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.audit.flow_audit import audit_flow
from qgf_ref.audit.flow_report import estimator_table, summary_lines
from qgf_ref.cli.main import main
from qgf_ref.contracts import ContractError
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.testing import check_flow
from tests.conftest import small_checkpoint

OBS = np.random.default_rng(0).standard_normal((6, 5))
ESTIMATORS = [qgf_ref.estimator(name) for name in ("ood", "qgf", "qgf_jacobian", "bptt")]


def native(dtype: str = "float64") -> GuidedFlow:
    return small_checkpoint(hidden=(8, 7), steps=4, dtype=dtype).flow


@dataclass
class Network:
    """Somebody's network: ours, with parts of it replaced."""

    base: Any
    parts: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        part = self.parts.get(name)
        if part is None:
            return getattr(self.base, name)
        if part is ABSENT:
            raise AttributeError(name)
        return lambda *args: part(self.base, *args)


def ABSENT() -> None:  # noqa: N802
    """A part that is not there."""


def with_field(**parts: Callable[..., Any]) -> GuidedFlow:
    flow = native()
    return replace(flow, field=Network(flow.field, parts))


def with_critic(**parts: Callable[..., Any]) -> GuidedFlow:
    flow = native()
    return replace(flow, critic=Network(flow.critic, parts))


def test_our_own_networks_fulfil_the_contract_in_both_precisions() -> None:
    for dtype in ("float64", "float32"):
        report = check_flow(native(dtype), OBS)
        assert len(report.checked) == 17 and not report.unchecked


def random(base: Any, obs: Array, a: Array, t: Any) -> Any:
    v, cache = base.forward(obs, a, t)
    return v + 0.1 * np.random.default_rng().standard_normal(v.shape), cache


def over_rows(base: Any, obs: Array, a: Array, t: Any) -> Any:
    v, cache = base.forward(obs, a, t)
    return v - v.mean(axis=0), cache


def in_place(base: Any, obs: Array, a: Array, t: Any) -> Any:
    a *= 0.5
    return base.forward(obs, a, t)


KEPT: dict[tuple[int, ...], Array] = {}


def one_array(base: Any, obs: Array, a: Array, t: Any) -> Any:
    v, cache = base.forward(obs, a, t)
    place = KEPT.setdefault(v.shape, np.empty_like(v))
    place[...] = v
    return place, cache


def not_a_number(base: Any, obs: Array, a: Array, t: Any) -> Any:
    v, cache = base.forward(obs, a, t)
    return np.where(np.arange(v.shape[1]) == 1, np.nan, v), cache


def transposed(base: Any, obs: Array, a: Array) -> Any:
    q, cache = base.forward(obs, a)
    return q.T, cache


def of_first(base: Any, obs: Array, a: Array, t: Any) -> Any:
    return base.forward(obs, a, t if np.ndim(t) == 0 else 0.0 * t)


@pytest.mark.parametrize(
    ("make", "clause", "says"),
    [
        (lambda: with_field(forward=random), "field deterministic", "noise inside"),
        (lambda: with_field(forward=over_rows), "field row independence", "BatchNorm"),
        (lambda: with_field(forward=in_place), "field leaves its input", "in place"),
        (lambda: with_field(forward=one_array), "field deterministic", "in the same array"),
        (lambda: with_field(forward=not_a_number), "field shape", "6 of 18 numbers of the field"),
        (lambda: with_field(forward=of_first), "field times", "one time for all rows"),
        (lambda: with_field(vjp=lambda f, u, c: f.jvp(u, c)), "field vjp", "another function"),
        (lambda: with_field(vjp=lambda f, u, c: 1.001 * f.vjp(u, c)), "field vjp", "WRONG"),
        (lambda: with_field(jvp=lambda f, u, c: -f.jvp(u, c)), "field jvp", "WRONG"),
        (lambda: with_critic(forward=transposed), "critic shape", r"expected \(E, 6\)"),
        (lambda: with_critic(vjp=lambda f, q, c: f.vjp(q / len(q), c)), "critic vjp", "WRONG"),
        (lambda: with_critic(hvp=lambda f, x, q, c: 2 * f.hvp(x, q, c)), "critic hvp", "WRONG"),
    ],
)
def test_planted_errors_are_caught(make: Callable[[], Any], clause: str, says: str) -> None:
    with pytest.raises(ContractError, match=f"({clause}).*{says}"):
        check_flow(make(), OBS)


def test_what_is_missing_is_named_with_what_is_lost() -> None:
    flow = with_field(jvp=ABSENT)
    report = check_flow(replace(flow, critic=Network(flow.critic, {"hvp": ABSENT})), OBS)
    assert report.unchecked["field jvp"].startswith("the field has no jvp: qgf_covariance")
    assert "the field has no jvp" in report.unchecked["field adjoint"]
    assert report.unchecked["critic hvp"] == "the critic has no hvp: qgf_covariance needs it"


def plain(differences: tuple[str, ...] = ("vjp", "jvp"), dtype: str = "float64") -> GuidedFlow:
    own = native(dtype)
    return adapters.functions(
        lambda s, a, t: own.field.forward(s, a, t[0])[0], lambda s, a: own.critic.forward(s, a)[0],
        action_shape=3, obs_dim=5, denoise_steps=4, differences=differences, dtype=dtype,
    )  # fmt: skip


def test_products_by_differences_are_said_to_be() -> None:
    report = check_flow(plain(), OBS)
    for name in ("field vjp", "critic jvp"):
        assert "taken by central differences, as asked" in report.unchecked[name]
    lines = summary_lines(audit_flow(plain(), OBS, ESTIMATORS[:1], show_progress=False))
    said = "not checked: field vjp: the field's vjp is taken by central differences, as asked"
    assert said in lines


def test_the_audit_profiles_the_estimators() -> None:
    report = audit_flow(native(), OBS, ESTIMATORS, weight=0.1, show_progress=False)
    assert report.passed and not report.skipped
    rows = report.estimators
    assert rows["qgf"].cos == pytest.approx(1.0)
    curls = {name: row.curl or 0.0 for name, row in rows.items()}
    for name in ("ood", "qgf_jacobian", "bptt"):  # gradient fields: 1e-7 of differences measured
        assert 0 < curls[name] < 1e-5
    assert curls["qgf"] > 0.01
    assert rows["bptt"].products == "v + 2 v vjp + Q + Q vjp"
    assert set(report.singular) == {0, 2, 3}
    for row in rows.values():
        assert row.q is not None and row.control is not None and row.noise is not None
    assert len(estimator_table(report)[1]) == 4
    json.dumps(report.as_json())


def test_a_weight_at_which_guidance_does_nothing_is_said_to() -> None:
    report = audit_flow(native(), OBS, ESTIMATORS[1:2], weight=1e-6, show_progress=False)
    assert any("qgf does next to nothing" in line for line in summary_lines(report))


def test_the_budget_is_kept_and_what_was_left_out_is_listed() -> None:
    whole = audit_flow(native(), OBS, ESTIMATORS, show_progress=False)
    for budget in (10, 60, whole.calls - 1):
        report = audit_flow(native(), OBS, ESTIMATORS, budget=budget, show_progress=False)
        assert report.calls <= budget and report.skipped
        assert any("left out, the budget being spent" in line for line in summary_lines(report))


def test_an_estimator_that_lacks_a_product_is_told_and_the_rest_goes_on() -> None:
    flow = with_field(jvp=ABSENT)
    chosen = [qgf_ref.estimator("qgf_covariance"), ESTIMATORS[0]]
    report = audit_flow(flow, OBS, chosen, show_progress=False)
    assert "has no jvp" in report.estimators["qgf_covariance"].says
    assert report.estimators["ood"].q is not None


def test_a_broken_product_fails_the_audit() -> None:
    flow = with_field(vjp=lambda f, u, c: f.jvp(u, c))
    report = audit_flow(flow, OBS, ESTIMATORS[:1], show_progress=False)
    assert not report.passed and any("field vjp: WRONG" in line for line in report.broken)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: audit_flow(native(), OBS[:1], ESTIMATORS), "B ≥ 2"),
        (lambda: audit_flow(native(), OBS[:, :2], ESTIMATORS), r"shape \(B, 5\)"),
        (lambda: audit_flow(native(), OBS, ESTIMATORS[:1] * 2), "audited once"),
        (lambda: audit_flow(native(), OBS, ESTIMATORS, weight=-1), "weight must be"),
    ],
)
def test_bad_input(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


MODULE = """
import numpy as np
from tests.audit.test_flow_audit import native, plain, with_field
def build(): return native(), np.ones((4, 5))
def bare(): return native()
def wrong(): return with_field(vjp=lambda f, u, c: f.jvp(u, c)), np.ones((4, 5))
def nothing(): return 3
def fails(): return {}["policy"]
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_flow_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = ["audit", "--estimators", "qgf", "--flow"]
    assert main([*run, "my_flow_module:build", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "all hold" in printed and "qgf" in printed
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"]
    assert "Audit of a guided flow" in (tmp_path / "out" / "report.html").read_text()
    assert main([*run, "my_flow_module:wrong", "--budget", "80"]) == 1
    for name, says in {
        "bare": "give --obs", "nothing": "must return a GuidedFlow", "fails": "KeyError: 'policy'",
        "absent": "has no 'absent'",
    }.items():  # fmt: skip
        assert main([*run, f"my_flow_module:{name}"]) == 2
        assert says in capsys.readouterr().err
    assert main([*run, "my_flow_module:bare", "--obs", "normal", "--budget", "20"]) == 0
