"""No false alarm: networks as they are published, drawn at random, in three conventions.

Three each of MLPs, transformers, temporal U-Nets and FiLM-conditioned networks; each must fulfil
the contract, and its audit must not call anything broken.
"""

from __future__ import annotations

from typing import Any

import pytest

from qgf_ref import adapters
from qgf_ref.audit.flow_audit import audit_flow
from qgf_ref.testing import check_flow
from tests.helpers.some import some

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from benchmarks.peers.torch_families import FAMILIES, STATE, drawn, observations  # noqa: E402

H, A, ROWS = 4, 3, 4


class Critic(torch.nn.Module):  # type: ignore[name-defined]
    """Members of the flat chunk."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(H * A + STATE, 16), torch.nn.LayerNorm(16), torch.nn.SiLU(),
            torch.nn.Linear(16, members),
        )  # fmt: skip

    def forward(self, obs: Any, x: Any) -> Any:
        return self.net(torch.cat([x.flatten(1), obs["state"]], 1)).T


@pytest.mark.parametrize("number", some(range(3), 1))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_false_alarm(family: str, number: int) -> None:
    dtype = torch.float64 if number == 0 else torch.float32
    field = drawn(family, number, H, A).to(dtype)
    critic = Critic(number + 1).to(dtype).eval()
    held = {name: x.to(dtype) for name, x in observations(ROWS).items()}
    obs = adapters.row_numbers(ROWS)
    for convention in ("qgf", "openpi", "gr00t"):
        flow = adapters.torch(
            field, critic, action_shape=(H, A), observations=held, denoise_steps=4,
            convention=convention,
        )  # fmt: skip
        report = check_flow(flow, obs, seed=number)
        assert len(report.checked) == 17 and not report.unchecked
    found = audit_flow(flow, obs, ["qgf", "qgf_jacobian"], budget=1000, show_progress=False)
    assert found.passed, found.broken
