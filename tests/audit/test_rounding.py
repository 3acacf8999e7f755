"""What rounding may explain of an estimator's distance from its definition."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.audit.by_oracle import OracleStep
from qgf_ref.audit.derivatives import _estimator_check
from qgf_ref.bench.settings import fresh_checkpoint
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.registry import estimator


@pytest.mark.parametrize(
    ("hidden", "measured"), [((192,) * 3, 1.6e-13), ((1024,) * 4, 1.1e-12)], ids=str
)
def test_it_grows_with_the_network(hidden: tuple[int, ...], measured: float) -> None:
    """The measured errors pass, twenty times as much does not, whatever the size."""
    ck = fresh_checkpoint(hidden, 0)
    obs, a = np.zeros((1, ck.obs_dim)), np.zeros((1, ck.flat_action_dim))
    steps = [OracleStep(ck.flow, denoising_step(ck.flow, obs, a, 0, 0.1))]
    for error, passes in ((measured, True), (20 * measured, False)):
        check = _estimator_check(estimator("qgf_shifted"), "definition", error, {}, True, steps)
        assert check.passed == passes
