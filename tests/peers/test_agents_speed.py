"""The agents' benchmark compares what computes the same, and refuses what does not."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation")]
pytest.importorskip("jax")

from benchmarks import agents_speed  # noqa: E402


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_speed, "HIDDEN", (32, 32))
    monkeypatch.setattr(agents_speed, "STEPS", 3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["fql", "dac"])
def test_updates_and_actions_are_equal_and_timed(name: str) -> None:
    checkpoint = agents_speed.checkpoint_of(name, 0)
    turns, found = agents_speed.updates(checkpoint, 2, 0)
    agents_speed.require_equal("update", found)
    acting, difference = agents_speed.actions(checkpoint, 3, 2, 0)
    agents_speed.require_equal("sampler", difference)
    rows: list[dict[str, Any]] = []
    for what, each in (("update", turns), ("sampler", acting)):
        row = agents_speed.compared(each, 2, 1e-3)
        rows.append({"agent": name, "what": what, **row})
        assert row["ratio"]["median"] > 0
    text = agents_speed.table(rows)
    assert f"| `{name}` | sampler |" in text


@pytest.mark.parametrize("found", [{"loss": 0.0, "change": 0.01}, {"action": float("nan")}])
def test_what_differs_is_not_timed(found: dict[str, float]) -> None:
    with pytest.raises(SystemExit, match=r"fql: .* do not compute the same"):
        agents_speed.require_equal("fql", found)
