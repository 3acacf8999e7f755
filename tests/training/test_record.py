"""What a resumed run is warned of."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import Record

FIRST: dict[str, Any] = {
    "processor": "p",
    "blas": [{"version": "0.3.31"}, {"version": "0.3.30"}],
    "versions": {"numpy": "2.0", "numba": "0.68", "llvmlite": "0.46"},
}


@pytest.mark.parametrize(
    ("backend", "path", "value", "warnings"),
    [
        ("numba", ("blas",), FIRST["blas"][::-1], []),
        ("numba", ("blas",), FIRST["blas"][:1], ["blas ['0.3.30', '0.3.31'], now ['0.3.31']"]),
        ("numba", ("processor",), "q", ["processor p, now q"]),
        ("numba", ("versions", "numpy"), "2.1", ["numpy 2.0, now 2.1"]),
        ("numba", ("versions", "numba"), "0.69", ["numba 0.68, now 0.69"]),
        ("numba", ("versions", "llvmlite"), "0.47", ["llvmlite 0.46, now 0.47"]),
        ("numpy", ("versions", "numba"), "0.69", []),
    ],
)
def test_changes(
    backend: str, path: tuple[str, ...], value: Any, warnings: list[str], tmp_path: Path
) -> None:
    last = copy.deepcopy(FIRST)
    place = last
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    sessions = [{"provenance": FIRST}, {"provenance": last}]
    record = Record(tmp_path, TrainConfig(backend=backend), {"sessions": sessions})
    assert record.changes() == warnings


def test_what_an_older_record_lacks_is_no_change(tmp_path: Path) -> None:
    old = {**FIRST, "versions": {"numpy": "2.0"}}
    sessions = [{"provenance": old}, {"provenance": FIRST}]
    assert Record(tmp_path, TrainConfig(), {"sessions": sessions}).changes() == []
