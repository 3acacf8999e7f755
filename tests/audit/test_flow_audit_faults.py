"""What can go wrong in the audit of a foreign flow costs a sentence, not the results so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.arrays import Array
from qgf_ref.audit.flow_audit import audit_flow
from qgf_ref.audit.flow_direction import flow_direction
from qgf_ref.audit.flow_report import FlowReport, summary_lines
from qgf_ref.cli.main import main
from qgf_ref.contracts import ContractError
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import Retold
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.testing import check_flow
from tests.helpers.numpy_flow import bowl, flow, wave

OBS = np.random.default_rng(0).standard_normal((4, 2))


def audited(subject: GuidedFlow, estimators: Any = ("qgf",), **settings: Any) -> FlowReport:
    return audit_flow(subject, OBS, estimators, show_progress=False, **settings)


def raising(error: BaseException, after: int) -> Callable[..., Array]:
    """A field that raises from call number `after` on."""
    calls: list[int] = []

    def field(s: Array, x: Array, t: Array) -> Array:
        calls.append(1)
        if len(calls) > after:
            raise error
        return wave(s, x, t)

    return field


def late(s: Array, x: Array, t: Array) -> Array:
    """NaN after mid-chain."""
    return wave(s, x, t) + np.where(t > 0.6, np.nan, 0.0)[:, None, None]


def test_estimators_by_name() -> None:
    for chosen in (["qgf"], "qgf", [qgf_ref.estimator("qgf")]):
        report = audited(flow(), chosen)
        assert report.passed and report.estimators["qgf"].q is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"budget": b}, "budget must be a whole number ≥ 1") for b in (0, -3, 2.5, "9")),
        *(({"weight": w}, "weight must be a number ≥ 0") for w in ("1", np.nan, None)),
        ({"estimators": ["qqf"]}, "unknown estimator 'qqf'"),
    ],
)
def test_bad_input(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        audited(flow(), **settings)


def test_what_fails_on_the_way_keeps_what_is_known() -> None:
    report = audited(flow(raising(RuntimeError("server gone"), 60), denoise_steps=4))
    assert len(report.held) >= 5 and not report.passed
    assert any("server gone" in line for line in report.broken)
    report = audited(flow(late, denoise_steps=10))
    assert len(report.held) >= 9 and not report.passed
    assert any(line.startswith("gradients on the chain: ") for line in report.broken)


def test_ctrl_c_keeps_what_is_known() -> None:
    report = audited(flow(raising(KeyboardInterrupt(), 40), denoise_steps=4))
    assert report.interrupted and len(report.held) >= 5
    assert summary_lines(report)[0].startswith(f"stopped in {report.interrupted}; known by then")


def test_a_product_that_is_missing_is_no_failure() -> None:
    report = audited(flow(differences=("jvp",)), ("ood", "qgf_jacobian"))
    assert report.passed
    assert "without a vjp" in report.estimators["qgf_jacobian"].says
    assert "without a vjp" in report.unchecked["singular values"]


def test_a_budget_that_ends_in_the_contract_says_what_it_did_not_come_to() -> None:
    report = audited(flow(raising(KeyboardInterrupt(), 3)))
    assert not report.passed and any("NOTHING CHECKED" in line for line in summary_lines(report))
    report = audited(flow(), budget=12)
    assert report.held and "field direction" in report.unreached
    assert any(line.startswith("NOT COME TO: ") for line in summary_lines(report))


def turned(sign: int, reverse: bool) -> GuidedFlow:
    """A trained field, its sign or its time turned round."""
    trained = qgf_ref.load().flow
    return replace(
        trained, field=Retold(trained.field, (lambda t: 1 - t) if reverse else lambda t: t, sign)
    )


def test_a_trained_field_that_is_turned_round_is_told() -> None:
    obs = qgf_ref.embedded_observations()[:8]
    assert flow_direction(turned(1, False), obs).correlation[0] < -0.9
    for sign, reverse, says in (
        (-1, False, "its sign is turned round"), (1, True, "its time is turned round"),
        (-1, True, "its sign and its time"),
    ):  # fmt: skip
        assert says in flow_direction(turned(sign, reverse), obs).contrary
    with pytest.raises(ContractError, match=r"v goes along a by \+0\.9.*its sign is"):
        check_flow(turned(-1, False), obs)
    assert not flow_direction(flow(lambda s, x, t: x + 0.1 * wave(s, x, t)), OBS).contrary


def test_a_detached_part_is_among_the_reasons() -> None:
    from qgf_ref.adapters.differences import NumpyFunction

    class Zero(NumpyFunction):
        def vjp(self, y_bar: Array, cache: Any) -> Array:
            return np.zeros((4, 3, 2))

    subject = flow(check=False)
    lost = replace(subject.critic, function=Zero(bowl, "the critic", float))  # type: ignore[type-var]
    with pytest.raises(ContractError, match="than the forward's, or part of it is detached"):
        check_flow(replace(subject, critic=lost), OBS)


MODULE = """
import numpy as np
from tests.helpers.numpy_flow import flow
def build(): return flow(), np.ones((4, 2))
def stops():
    from tests.audit.test_flow_audit_faults import raising
    return flow(raising(KeyboardInterrupt(), 40)), np.ones((4, 2))
def exits(): raise SystemExit(3)
def asserts(): assert False, "no\\nGPU"
def nothing(): return None
def listed(): return [flow(), np.ones((4, 2))]
def three(): return flow(), np.ones((4, 2)), 1
def needs(x): return flow()
number = 5
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_faulty_flow.py").write_text(MODULE)
    (tmp_path / "my_script.py").write_text("raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = ["audit", "--estimators", "qgf", "--flow"]
    for spec, says in {
        "my_faulty_flow": "is not of the form package.module:function",
        "no_such_module:build": "cannot import it: ModuleNotFoundError: No module named",
        "my_script:build": "cannot import it: SystemExit: 2",
        "my_faulty_flow:absent": "has no 'absent'",
        "my_faulty_flow:needs": "missing 1 required positional argument",
        "my_faulty_flow:nothing": "must return a GuidedFlow, or (flow, obs), it returned NoneType",
        "my_faulty_flow:listed": "it returned list",
        "my_faulty_flow:three": "it returned tuple",
        "my_faulty_flow:number": "'int' object is not callable",
        "my_faulty_flow:exits": "raised SystemExit: 3",
        "my_faulty_flow:asserts": "raised AssertionError: no GPU",
    }.items():
        assert main([*run, spec]) == 2, spec
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert main([*run, "my_faulty_flow:build", "--budget", "0"]) == 2
    for command in (["audit"], ["compare", "--trace", "absent.npz"]):
        capsys.readouterr()
        assert main([*command, "--budget", "20"]) == 2
        assert "--budget bounds the calls of a --flow's networks" in capsys.readouterr().err
    assert main([*run, "my_faulty_flow:build", "--rows", "4", "--backend", "numba"]) == 2
    assert "leave out --rows, --backend" in capsys.readouterr().err
    assert main([*run, "my_faulty_flow:stops"]) == 130
    assert "known by then" in capsys.readouterr().out
