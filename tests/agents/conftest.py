"""What tests of agents are given."""

from __future__ import annotations

import pytest

from benchmarks.golden import GOLDEN
from tests.helpers.dqc_golden import Case


@pytest.fixture(params=["cube", "puzzle", "state_goals"])
def case(request: pytest.FixtureRequest) -> Case:
    path = GOLDEN / "gc" / request.param
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    return Case(path)
