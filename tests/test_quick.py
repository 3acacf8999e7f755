"""The bound of tests.helpers.quick: of this process's own work."""

from __future__ import annotations

import time

import pytest

from tests.helpers.quick import quickly


def test_work_counts_and_waiting_does_not() -> None:
    with quickly(0.05):
        time.sleep(0.1)
    with pytest.raises(AssertionError, match=r"of this process, more than 0\.05"), quickly(0.05):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
