"""Workers of other versions, or that do not see the sweep's directory, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qgf_ref.errors import InputError
from qgf_ref.sweeps import dask_runner
from qgf_ref.sweeps.workers import check_workers, own_facts
from tests.sweeps import stub
from tests.sweeps.conftest import swept


class Answering:
    """A client whose one worker answers so."""

    def __init__(self, **other: str) -> None:
        self.other = other

    def wait_for_workers(self, count: int, timeout: float) -> None:
        """It is there."""

    def run(self, function: Any, *arguments: Any) -> dict[str, Any]:
        return {"tcp://other:1": {**function(*arguments), **self.other}}


@pytest.mark.slow
def test_workers_that_do_not_fit(tmp_path: Path) -> None:
    sweep = swept(tmp_path)
    assert check_workers(Answering(), sweep.place) == 1
    for other, message in (
        ({"numpy": "1.0"}, r"tcp://other:1 is not as this process \(numpy 1\.0 there, .* here\)"),
        ({"source of qgf_ref": "0"}, r"\(source of qgf_ref 0 there, .*\): results would depend"),
        ({"sees the directory": "no"}, r"tcp://other:1 does not see .*file system that this"),
    ):
        with pytest.raises(InputError, match=message):
            check_workers(Answering(**other), sweep.place)
    assert not list((tmp_path / "jobs").glob(".seen*"))
    asked = {**own_facts(), "numpy": "1.0"}
    late = dask_runner._perform_if_fit(
        asked, stub.perform, sweep, sweep.wanted()[1][0], 1, tmp_path / "begun"
    )
    assert (late.code, late.said.startswith("a worker that came later is not as")) == (1, True)
    none = r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"
    with pytest.raises(InputError, match=none), dask_runner.running("tcp://127.0.0.1:9"):
        pass
