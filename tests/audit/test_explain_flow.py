"""`explain` of a flow of anybody's networks: a call of one is one operation on the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.arrays import Array
from qgf_ref.audit.explain import GradientExplanation, explain
from qgf_ref.cli.main import main
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator
from tests.crosscheck.closed_flow import NOISE, OBS, T, flow

NAMES = ("none", "ood", "qgf", "qgf_jacobian", "bptt", "qgf_covariance")


def explained(name: str, of: GuidedFlow) -> GradientExplanation:
    how: dict[str, Any] = {"row": 1, "index": 2, "weight": 0.5, "noise": NOISE}
    return explain(of, OBS, estimator=estimator(name), **how)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_call_of_a_network_is_on_the_record(dtype: str) -> None:
    for name in NAMES:
        told = explained(name, flow(dtype))
        assert told.complete and not told.contradicted, name
        calls = [e for e in told.ledger.entries if e.operation in ("field", "critic")]
        by_name = {
            "field_forward": ("field", "forward"), "field_vjp": ("field", "vjp"),
            "field_jvp": ("field", "jvp"), "critic_forward": ("critic", "forward"),
            "critic_vjp": ("critic", "vjp"), "critic_hvp": ("critic", "vjp_jvp"),
        }  # fmt: skip
        for product, entry in by_name.items():
            count = sum((e.operation, e.product) == entry for e in calls)
            assert count == getattr(told.products, product), (name, product)
        assert max(map(len, told.text().splitlines())) <= 100


class WrongVjp:
    """A field whose vjp is off by a tenth."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        return 1.1 * self._base.vjp(velocity_bar, cache)


class Forgetful(WrongVjp):
    """A field that answers a call otherwise than the last."""

    calls = 0

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        self.calls += 1
        return (1 + 0.01 * self.calls) * self._base.vjp(velocity_bar, cache)


def test_a_wrong_vjp_and_one_that_does_not_repeat_are_contradicted() -> None:
    right = flow()
    for wrong in (WrongVjp, Forgetful):
        told = explained("qgf_jacobian", replace(right, field=wrong(right.field)))
        assert told.contradicted and told.complete == (wrong is WrongVjp)
    assert not explained("qgf", replace(right, field=WrongVjp(right.field))).contradicted


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "from tests.crosscheck.closed_flow import OBS, flow\ndef build(): return flow(), OBS\n"
    (tmp_path / "my_explained_module.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = ["explain", "--flow", "my_explained_module:build", "--estimator", "qgf_jacobian"]
    assert main([*run, "--step", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("flow my_explained_module:build") and "field vjp" in said
    assert main([*run, "--step", str(T)]) == 2
    assert main([*run, "--obs", "normal"]) == 0
