"""A new estimator is one file and one line of registry: everything else asks the registry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgf_ref import estimator, register
from qgf_ref.audit.run import audit
from qgf_ref.cli.main import main
from qgf_ref.guidance.registry import _REGISTRY, estimator_names
from qgf_ref.plotting import ESTIMATOR_STYLES, style
from qgf_ref.testing import check_estimator
from tests.conftest import small_checkpoint, states

FILE = '''
"""Half of qgf_jacobian."""

from dataclasses import dataclass, replace

from qgf_ref import Estimator, estimator

JACOBIAN = estimator("qgf_jacobian")


@dataclass(frozen=True)
class Half(Estimator):
    """G = ½·∇Q(s, â₁(a_t))."""

    name = "half"
    summary = "½·∇Q(s, â₁(a_t))"

    def __call__(self, flow, step):
        whole = JACOBIAN(flow, step)
        return replace(whole, gradient=0.5 * whole.gradient)

    def products(self, flow, index):
        return JACOBIAN.products(flow, index)

    def potential(self, flow, step):
        return 0.5 * JACOBIAN.potential(flow, step)
'''


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "half_estimator.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    import half_estimator

    register("half", half_estimator.Half)  # the one line
    yield "half"
    del _REGISTRY["half"], sys.modules["half_estimator"]


def test_one_file_and_one_line(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimator_names()[-1] == half
    assert main(["estimators"]) == 0
    assert "½·∇Q(s, â₁(a_t))" in capsys.readouterr().out
    ck = small_checkpoint()
    checked = check_estimator(half, ck).checked
    assert {"potential", "stated_products", "row_independence"} <= set(checked)
    chosen = [estimator(half), estimator("qgf")]
    report = audit(ck, states(ck, 4)[0], chosen, show_progress=False, backend="numpy")
    assert report.passed
    assert report.coverage[half].checked == ("definition", "potential")
    assert report.profile.products[half] == "v vjp + Q + Q vjp"


def test_its_style_is_its_own_and_the_same_in_every_run(half: str) -> None:
    assert style(half) == style(half)
    given = [tuple(line) for line in ESTIMATOR_STYLES.values()]
    assert tuple(style(half).values())[:3] not in given
    assert style("half") != style("another")
