"""Ports whose networks compute in bfloat16, as robots' policies are deployed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.peers.torch_families import FAMILIES  # noqa: E402
from benchmarks.peers.torch_robots import Robot, RobotPort  # noqa: E402
from qgf_ref.crosscheck.compare import compare  # noqa: E402
from qgf_ref.interop.trace_file import recorded_trace  # noqa: E402

pytestmark = pytest.mark.peers
ROWS, WEIGHT = 8, 0.3


class Autocast(RobotPort):
    """The sampler in float32, its networks under torch.autocast."""

    def policy(self, *inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().policy(*inputs).float()

    def members(self, *inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().members(*inputs).float()


@pytest.mark.parametrize(
    ("family", "estimator"), [*((f, "qgf") for f in FAMILIES), ("transformer", "qgf_jacobian")]
)
def test_right_ports_under_autocast_agree_as_such(family: str, estimator: str) -> None:
    """Excess 0.12 to 0.28 here: neither an alarm nor a limit that nothing reaches."""
    robot = Robot(family, "openpi", 3, steps=5)
    obs = np.arange(ROWS, dtype=np.float32)[:, None]
    noise = np.random.default_rng(0).standard_normal((ROWS, robot.flat_action_dim))
    noise = noise.astype(np.float32)
    run = Autocast(robot, estimator=estimator).trace(obs, noise, WEIGHT)
    theirs = recorded_trace({"obs": obs, "noise": noise, **run})
    how: dict[str, Any] = {"estimator": estimator, "weight": WEIGHT}
    comparison = compare(robot.flow(), theirs, precision="bfloat16", **how)
    assert comparison.agrees
    assert 0.05 < comparison.diagnosis.explanations[0].excess < 0.6
